"""Options of create that are written in several ways, and rows of a prompt file."""

import json

import pytest

from sfumato.errors import OptionError
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.restore.options import RestoreOptions


@pytest.mark.parametrize("schedule", [None, "auto", "Automatic", "automatic", "Karras", "karras"])
def test_a_name_of_sampler_and_schedule_beside_a_schedule(schedule):
    """A1111's clients send the schedule in both places."""
    given = {} if schedule is None else {"schedule": schedule}
    options = CreateOptions(sampler="DPM++ 2M Karras", **given)
    assert (options.sampler, options.schedule) == ("dpmpp_2m", "karras")


def test_a_name_of_sampler_and_schedule_beside_another_schedule():
    with pytest.raises(OptionError, match="contains a schedule, but --schedule is exponential"):
        CreateOptions(sampler="DPM++ 2M Karras", schedule="exponential")
    assert CreateOptions(schedule="linspace").schedule == "linspace"


def test_an_error_spells_values_as_they_are():
    from sfumato.denoiser.unet import UNetConfig
    from sfumato.errors import ConfigError

    with pytest.raises(ConfigError, match="input should be 'UNetMidBlock2DCrossAttn'"):
        UNetConfig.read({"mid_block_type": "x"}, "theirs")


def test_a_row_may_not_ask_for_a_transparent_jpeg(run, tiny, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "an apple", "transparent": True}))
    words = ["create", "--prompts", "p.jsonl", "--model", tiny, "--steps", 1]
    code, _, err = run(*words, "--output", "x.jpg")
    assert code == 2 and "a JPEG has no transparency" in err and not (tmp_path / "x.jpg").exists()
    assert run(*words, "--output", "x.png")[0] == 0


@pytest.mark.parametrize(
    ("record", "name", "flag"),
    [
        (CreateOptions, "source", "--from"),
        (CreateOptions, "mask", "--mask"),
        (RestoreOptions, "fill", "--fill"),
        (RestoreOptions, "like", "--like"),
    ],
)
def test_an_empty_path_is_not_ignored(record, name, flag):
    """Such as that of a variable that the shell does not know."""
    with pytest.raises(OptionError, match=f"{flag} is empty"):
        record.build({name: ""})
