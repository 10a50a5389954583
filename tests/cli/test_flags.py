"""The flags of a command hold what its options record takes."""

import pytest
import typer
from typer.testing import CliRunner

from sfumato.cli.command import command_class, given, takes
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.restore.options import RestoreOptions


def parsed(record, *words):
    """The values that a command with the options of a record receives."""
    app, found = typer.Typer(), {}

    @app.command(cls=command_class(record))
    @takes(record)
    def run(**values):
        found.update(given(values))

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return found


@pytest.mark.parametrize(
    ("record", "flag", "words", "field", "held"),
    [
        (CreateOptions, "--lora", ("a/", "b.safetensors:0.5"), "loras", None),
        (
            RestoreOptions,
            "--hint",
            ("1,2,#ff0000", "3,4,#00ff00"),
            "hints",
            ((1, 2, "#ff0000"), (3, 4, "#00ff00")),
        ),
    ],
)
def test_a_repeated_flag_keeps_every_value(record, flag, words, field, held):
    values = parsed(record, flag, words[0], flag, words[1])
    assert values == {field: list(words)}
    more = {"colorize": True} if record is RestoreOptions else {}
    assert getattr(record.build(values | more), field) == (held or words)


def test_the_first_name_of_an_optional_value_may_stand_alone():
    both = parsed(RestoreOptions, "--denoise", "--enlarge", "2")
    assert both == {"denoise": "auto", "enlarge": 2}
    for name in ("--denoise", "--noise-level"):
        assert parsed(RestoreOptions, name, "25") == {"denoise": "25"}
