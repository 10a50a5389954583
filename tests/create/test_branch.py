"""Another text or guidance from a step on, and runs that differ in options on one page."""

import numpy as np
import pytest

from sfumato.cli.explain import _change
from sfumato.errors import OptionError
from sfumato.hub.load import load
from sfumato.sampler.registry import SAMPLERS as ALL
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create
from sfumato.tasks.explain.experiments import explain

SAMPLERS = ("dpmpp_2m", "euler_ancestral", "heun", "unipc")


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny)


def options(model, **more):
    return CreateOptions(model=model.name, **{"seed": 3, "steps": 5, "guidance_scale": 3.0} | more)


def picture(model, text="a red apple", **more):
    return np.asarray(create(text, options(model, **more), model)[0].picture)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_branch_without_change_is_the_same_picture(model, sampler):
    plain = picture(model, sampler=sampler)
    same = picture(model, sampler=sampler, then_step=3, then="a red apple", then_guidance_scale=3.0)
    assert np.array_equal(plain, same)
    other = picture(
        model, sampler=sampler, then_step=2, then="the quick brown fox", then_guidance_scale=40
    )
    assert np.abs(plain.astype(int) - other).max() > 2


def test_from_the_first_step_on_it_is_the_other_text(model):
    branched = picture(model, then_step=1, then="a blue house")
    assert np.array_equal(branched, picture(model, "a blue house"))


@pytest.mark.parametrize("sampler", ALL)
def test_the_steps_before_the_branch_are_the_same(model, sampler):
    change = {"then_step": 4, "then": "the quick brown fox"}
    found = explain("a red apple", options(model, sampler=sampler), model, changes=[change])
    first, second = (run.trace.steps for run in found.runs)
    assert all(np.array_equal(a.after, b.after) for a, b in zip(first[:3], second[:3], strict=True))
    assert not np.array_equal(first[3].after, second[3].after)
    assert found.apart[1, 3] == 0 < found.apart[1, 4]
    assert found.runs[1].label == "from step 4: the quick brown fox"


def test_runs_may_differ_in_steps_sampler_and_prompt(model, tmp_path):
    changes = [{"steps": 8}, {"sampler": "euler"}, {"prompt": "a blue house", "guidance_scale": 1}]
    found = explain("a red apple", options(model), model, changes=changes)
    assert [len(run.trace.steps) for run in found.runs] == [5, 8, 5, 5]
    assert found.apart.shape == (4, 6) and [len(way) for way in found.map] == [6, 9, 6, 6]
    assert found.runs[3].label == "a blue house, guidance scale 1"
    for run, change in zip(found.runs[1:], changes, strict=True):
        asked = {k: v for k, v in change.items() if k != "prompt"}
        alone = picture(model, change.get("prompt", "a red apple"), **asked)
        assert np.array_equal(np.asarray(run.trace.made.picture), alone), "as without the others"
    found.write(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "32x32"}, "size cannot differ"),
        ({"model": "icons"}, "model cannot differ"),
        ({"nonsense": 1}, "unknown option"),
        ({"then": "a cat"}, "need --then-step"),
        ({"then_step": 9, "then": "a cat"}, "there are 5 steps"),
        ({"steps": "many"}, "steps"),
    ],
)
def test_what_cannot_be_changed(model, change, said):
    with pytest.raises(OptionError, match=said):
        explain("a red apple", options(model), model, changes=[change])


def test_the_last_step_may_be_another_and_no_step_behind_it(model):
    made = picture(model, then_step=5, then="a blue house", then_guidance_scale=40)
    assert not np.array_equal(made, picture(model))
    with pytest.raises(OptionError, match="there are 5 steps"):
        picture(model, then_step=6, then="a blue house")


def test_too_many_runs(model):
    with pytest.raises(OptionError, match="7 pictures"):
        explain("a red apple", options(model), model, changes=[{"steps": 2}] * 6)


def test_the_command(run, tiny):
    words = ("--model", tiny, "--steps", 3, "--seed", 1, "--light")
    code, out, err = run(
        "explain", "a red apple", *words, "--change", "guidance_scale=1",
        "--change", "then_step=2, then=a blue house", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert '"then": "a blue house"' in out
    code, _, err = run("explain", "a red apple", *words, "--change", "guidance", "--overwrite")
    assert code == 2 and "NAME=VALUE" in err
    code, _, err = run("create", "a red apple", "--model", tiny, "--then", "x", "--steps", 3)
    assert code == 2 and "--then-step" in err
    code, _, err = run("create", "a red apple", "--model", tiny, "--then-step", 2)
    assert code == 2 and "changes nothing" in err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prompt=a cat, black", {"prompt": "a cat, black"}),
        ("prompt=a cat, black, steps=3", {"prompt": "a cat, black", "steps": "3"}),
        ("then-step=2, then=a=b", {"then_step": "2", "then": "a=b"}),
    ],
)
def test_a_text_of_a_change_may_have_commas(text, found):
    assert _change(text) == found
