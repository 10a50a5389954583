"""Samplers on a Gaussian with known score: measured order of convergence against theory, and the
printed table.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from sfumato.denoiser.precondition import Times
from sfumato.errors import OptionError
from sfumato.sampler.registry import (
    SAMPLERS,
    SCHEDULE_LABELS,
    build,
    sampler_name,
    schedule_name,
)
from sfumato.sampler.schedule import SCHEDULES

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
    "sampler_order", ROOT / "benchmarks" / "sampler_order.py"
)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
CONVERGENT = [n for n, e in SAMPLERS.items() if e.order]


@pytest.mark.parametrize("name", CONVERGENT)
def test_order(name):
    measured = bench.order(name)
    assert abs(measured - SAMPLERS[name].order) <= 0.2, f"{name}: measured {measured:.2f}"


def test_eta_holds_in_every_spelling():
    x, outputs = torch.ones(1, 1, 2, 2, dtype=torch.float64), []
    for name, eta in (("ddim", 1.0), ("DDIM", 1.0), ("ddim", 0.0)):
        sampler = build(name, lambda like: torch.full_like(like, 0.5), eta)
        outputs.append(list(sampler(bench.denoise, x, torch.tensor([5.0, 2.0, 1.0])))[-1].x)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("levels", [[1, 2, 0], [2, 1, -1], [2, float("nan"), 0]])
@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_that_rise_are_refused(name, levels):
    sampler = build(name, torch.randn_like, None)
    with pytest.raises(OptionError, match="must not rise"):
        list(sampler(bench.denoise, torch.ones(1, 1, 2, 2), torch.tensor(levels)))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lcm"])
@pytest.mark.parametrize("levels", [(5, 5, 2, 1, 0), (5, 2, 2, 1, 0), (5, 2, 1, 1, 1, 0)], ids=str)
def test_a_step_between_equal_levels_changes_nothing(name, levels):
    ends = []
    for sigmas in ((5, 2, 1, 0), levels):
        sampler, x = build(name, torch.zeros_like), torch.linspace(-5, 5, 8, dtype=torch.float64)
        steps = sampler(lambda x, sigma: torch.tanh(x / 2), x[None], torch.tensor(sigmas).double())
        ends.append([step.x for step in steps][-1])
    assert torch.equal(*ends)


def test_a_broken_sampler_loses_its_order(monkeypatch):
    """The check can fail: Heun without its correction is Euler."""
    from sfumato.sampler import ode

    entry = SAMPLERS["heun"]
    monkeypatch.setitem(SAMPLERS, "heun", type(entry)(ode.euler, 2, 1, False, "Heun"))
    assert bench.order("heun") < 1.2


@pytest.mark.parametrize("name", SAMPLERS)
def test_generator_of_steps(name):
    sigmas = SCHEDULES["karras"](Times.from_betas().sigmas, 5)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64) * 14
    steps = list(build(name, torch.randn_like)(bench.denoise, x, sigmas))
    assert [s.index for s in steps] == list(range(5))
    assert all(s.x.shape == x.shape and s.x.isfinite().all() for s in steps)
    if name != "lms":  # the last step, to 0, ends on the denoiser's answer; LMS also looks back
        torch.testing.assert_close(steps[-1].x, steps[-1].denoised)
    # stops when the caller does
    assert next(build(name, torch.randn_like)(bench.denoise, x, sigmas)).index == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_schedule(name, steps):
    table = Times.from_betas().sigmas
    sigmas = SCHEDULES[name](table, steps)
    assert sigmas.shape == (steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[-1]) == 0
    assert float(sigmas[0]) <= float(table[-1]) * (1 + 1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [300, 1000, 2500])
def test_more_steps_than_levels(name, steps):
    """No level twice: a step of no length would divide by zero."""
    sigmas = SCHEDULES[name](Times.from_betas().sigmas, steps)
    assert 200 < len(sigmas) <= steps + 1
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[-1]) == 0


@pytest.mark.parametrize(
    ("spelling", "ours"),
    [
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
        ("DPM++ SDE", "dpmpp_sde"),
        ("DPM++ 2S a", "dpmpp_2s_ancestral"),
        ("Euler a", "euler_ancestral"),
        ("Euler", "euler"),
        ("LMS", "lms"),
        ("Heun", "heun"),
        ("DPM2", "dpm2"),
        ("DDIM", "ddim"),
        ("UniPC", "unipc"),
        ("LCM", "lcm"),
        ("dpm_2", "dpm2"),
        ("uni_pc", "unipc"),
        ("euler_ancestral", "euler_ancestral"),
        ("DDPMScheduler", "ddpm"),
        ("DDIMScheduler", "ddim"),
        ("EulerDiscreteScheduler", "euler"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
        ("HeunDiscreteScheduler", "heun"),
        ("KDPM2DiscreteScheduler", "dpm2"),
        ("LMSDiscreteScheduler", "lms"),
        ("LCMScheduler", "lcm"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("UniPCMultistepScheduler", "unipc"),
        ("DPMSolverSDEScheduler", "dpmpp_sde"),
        ("k_heun", "heun"),
    ],
)
def test_spellings(spelling, ours):
    assert sampler_name(spelling) == ours


@pytest.mark.parametrize(("name", "label"), SCHEDULE_LABELS.items())
def test_labels_of_schedules_are_read_again(name, label):
    assert schedule_name(label) == name and SCHEDULE_LABELS.keys() == {"auto", *SCHEDULES}


def test_schedule_spellings():
    assert [schedule_name(n) for n in ("Automatic", "Karras", "SGM Uniform", "normal", "Beta")] == [
        "auto",
        "karras",
        "sgm_uniform",
        "uniform",
        "beta",
    ]


def test_unknown_names_say_the_nearest():
    with pytest.raises(OptionError, match='did you mean "dpmpp_2m"'):
        sampler_name("dpmp 2m")
    with pytest.raises(OptionError, match='did you mean "karras"'):
        schedule_name("karas")


@pytest.mark.slow
def test_docs_hold_the_printed_table():
    assert (ROOT / "docs" / "samplers.md").read_text().strip() == bench.table().strip()
