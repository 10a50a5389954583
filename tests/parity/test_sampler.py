"""Schedules, samplers and the whole pipeline against diffusers."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch

from sfumato import image
from sfumato.denoiser.precondition import Times
from sfumato.hub.config import SchedulerConfig
from sfumato.hub.load import load
from sfumato.hub.save import save_scheduler
from sfumato.runtime import Streams
from sfumato.sampler import ode, schedule, sde
from sfumato.sampler.registry import SAMPLERS, build
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import create

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLE = Times.from_betas().sigmas


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_spacing_is_eulers(spacing, steps):
    theirs = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(steps)
    ours = schedule.spaced(TABLE, steps, spacing, offset=1)
    np.testing.assert_allclose(ours, theirs.sigmas.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("flag", ["karras", "exponential"])
def test_shaped_schedules(flag):
    theirs = diffusers.EulerDiscreteScheduler(**BETAS, **{f"use_{flag}_sigmas": True})
    theirs.set_timesteps(12)
    # their float32 ends, which round at 1e-5
    table = ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod).sqrt()
    np.testing.assert_allclose(
        schedule.SCHEDULES[flag](table, 12), theirs.sigmas.double(), atol=1e-5, rtol=0
    )


def toy(x, sigma):
    """A nonlinear denoiser of any x."""
    s = sigma.to(x.dtype)[:, None, None, None]
    return torch.tanh(x / (1 + s * s)) * 0.8


def walk_theirs(scheduler, x, steps, generator=None):
    """Their loop around an eps prediction made from `toy`, in their own frame."""
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        alpha = alphas[int(t)]
        sigma = ((1 - alpha) / alpha).sqrt()
        frame = scaled * (1 + sigma**2).sqrt()
        eps = (frame - toy(frame, sigma.expand(len(x)))) / sigma
        extra = {"generator": generator} if generator is not None else {}
        x = scheduler.step(eps, t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "heun", "unipc"])
def test_sampler(name):
    torch.manual_seed(0)
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    settings = {**BETAS, "timestep_spacing": "trailing"}
    make = {
        "ddim": lambda: diffusers.DDIMScheduler(
            **settings, clip_sample=False, set_alpha_to_one=True
        ),
        "euler": lambda: diffusers.EulerDiscreteScheduler(**settings),
        "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(**settings),
        "heun": lambda: diffusers.HeunDiscreteScheduler(**settings),
        "unipc": lambda: diffusers.UniPCMultistepScheduler(**settings, final_sigmas_type="zero"),
    }[name]
    sigmas = schedule.trailing(TABLE, 20)
    run = {
        "ddim": ode.euler,
        "euler": ode.euler,
        "dpmpp_2m": ode.dpmpp_2m,
        "heun": ode.heun,
        "unipc": ode.unipc,
    }[name]
    top = float(sigmas[0])
    if name in ("euler", "heun"):
        want = walk_theirs(make(), noise * top, 20)
        made = list(run(toy, noise * top, sigmas))[-1].x
    else:
        want = walk_theirs(make(), noise, 20)
        made = list(run(toy, noise * (1 + top**2) ** 0.5, sigmas))[-1].x
    torch.testing.assert_close(made, want.double(), atol=1e-5, rtol=0)
    # other steps, other picture
    assert (list(run(toy, noise * top, sigmas[::2]))[-1].x - want).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_stochastic_sampler(name):
    """The same generator gives both the same noise, step by step."""
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings = {**BETAS, "timestep_spacing": "trailing"}
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    sigmas = schedule.trailing(TABLE, 20)
    top = float(sigmas[0])
    if name == "euler_ancestral":
        want = walk_theirs(
            diffusers.EulerAncestralDiscreteScheduler(**settings), start * top, 20, theirs
        )
        made = sde.euler_ancestral(
            toy,
            start * top,
            sigmas,
            noise=lambda x: torch.randn(x.shape, dtype=x.dtype, generator=ours),
        )
    else:  # their noise is float32 here
        want = walk_theirs(
            diffusers.DPMSolverMultistepScheduler(**settings, algorithm_type="sde-dpmsolver++"),
            start,
            20,
            theirs,
        )
        made = sde.dpmpp_2m_sde(
            toy,
            start * (1 + top**2) ** 0.5,
            sigmas,
            noise=lambda x: torch.randn(x.shape, generator=ours).double(),
        )
    torch.testing.assert_close(list(made)[-1].x, want.double(), atol=1e-5, rtol=0)


def test_lms():
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = schedule.trailing(TABLE, 20)
    want = walk_theirs(
        diffusers.LMSDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
        start * float(sigmas[0]),
        20,
    )
    torch.testing.assert_close(
        list(ode.lms(toy, start * float(sigmas[0]), sigmas))[-1].x, want.double(), atol=1e-5, rtol=0
    )


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_dpm2():
    """Their scheduler scales its input by the level that it wants an answer for, midpoints too."""
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = schedule.trailing(TABLE, 20)
    theirs = diffusers.KDPM2DiscreteScheduler(**BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    x = start * float(sigmas[0])
    for t in theirs.timesteps:
        scaled = theirs.scale_model_input(x, t)
        place = scaled.abs().argmax()
        sigma = ((x.flatten()[place] / scaled.flatten()[place]) ** 2 - 1).sqrt()
        x = theirs.step((x - toy(x, sigma.expand(2))) / sigma, t, x).prev_sample
    made = list(ode.dpm2(toy, start * float(sigmas[0]), sigmas))[-1].x
    torch.testing.assert_close(made, x.double(), atol=1e-5, rtol=0)


def test_lcm():
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    scheduler = diffusers.LCMScheduler(**BETAS, clip_sample=False)
    want = walk_theirs(scheduler, start, 4, theirs)
    sigmas = torch.cat([TABLE[scheduler.timesteps], torch.zeros(1)])
    x = start * (1 + sigmas[0] ** 2).sqrt()
    made = list(
        sde.lcm(toy, x, sigmas, noise=lambda x: torch.randn(x.shape, generator=ours, dtype=x.dtype))
    )[-1].x
    # they leave a share of 1e-5 of the noisy picture in
    torch.testing.assert_close(made, want.double(), atol=1e-3, rtol=0)


def test_ddim_eta_is_euler_ancestral():
    torch.manual_seed(0)
    theirs = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    )
    theirs.set_timesteps(10)
    sigmas = schedule.trailing(TABLE, 10)
    noise = torch.randn(1, 4, 4, 4, dtype=torch.float64)
    draws = torch.randn(10, 1, 4, 4, 4, dtype=torch.float64)
    x = noise
    for k, t in enumerate(theirs.timesteps):
        alpha = theirs.alphas_cumprod[int(t)].double()
        sigma = ((1 - alpha) / alpha).sqrt()
        frame = x * (1 + sigma**2).sqrt()
        eps = (frame - toy(frame, sigma.expand(1))) / sigma
        x = theirs.step(eps, t, x, eta=1.0, variance_noise=draws[k]).prev_sample
    queue = iter(draws)
    made = list(
        sde.euler_ancestral(
            toy, noise * float((1 + sigmas[0] ** 2).sqrt()), sigmas, noise=lambda _: next(queue)
        )
    )[-1].x
    torch.testing.assert_close(made, x, atol=1e-5, rtol=0)


def test_config_of_stable_diffusion_1():
    raw = {
        "_class_name": "PNDMScheduler",
        **BETAS,
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }
    config = SchedulerConfig.from_file(raw, "x")
    assert (config.timestep_spacing, config.steps_offset, config.kind) == ("leading", 1, "eps")
    sigmas = config.default_sigmas(TABLE, 20, "ddim")
    assert float(sigmas[-1]) == float(TABLE[0]), (
        "set_alpha_to_one = false ends DDIM at the first level"
    )
    assert float(config.default_sigmas(TABLE, 20, "dpmpp_2m")[-1]) == 0


def same_picture(folder, scheduler=None):
    """Our picture and diffusers' from the same noise."""
    prompt = "a red apple, Noto emoji"  # with a comma, so that no default style is added
    ours = create(
        prompt, CreateOptions(model=str(folder), seed=5, steps=6, sampler=scheduler, best_of=1)
    )[0].picture
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        str(folder), safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "ddim":
        pipe.scheduler = diffusers.DDIMScheduler.from_config(
            pipe.scheduler.config, clip_sample=False, set_alpha_to_one=True
        )
    model = load(str(folder))
    side = model.network.config.sample_size
    noise = Streams([5]).normal((1, model.network.config.in_channels, side, side))
    theirs = pipe(
        prompt,
        num_inference_steps=6,
        guidance_scale=model.defaults.guidance_scale,
        latents=noise,
        output_type="np",
        negative_prompt="",
    ).images
    want = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    return image.to_bytes(image.to_tensor(ours)).int(), image.to_bytes(want).int()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", [None, "ddim"])
def test_pipeline_makes_the_same_picture(tiny, scheduler):
    ours, theirs = same_picture(tiny, scheduler)
    assert (ours - theirs).abs().max() <= 1
    assert ours.float().std() > 1, "a flat picture would agree with anything"


FLAGS = [None, "karras", "exponential", "beta"]
CLASSES = [
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]
STOCHASTIC = ["DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_walks_through_the_levels_of_its_class(name, spacing, flag):
    flags = {} if flag is None else {f"use_{flag}_sigmas": True}
    theirs = getattr(diffusers, name)(**BETAS, timestep_spacing=spacing, steps_offset=1, **flags)
    theirs.set_timesteps(10)
    ours = SchedulerConfig.from_file({**theirs.config, "_class_name": name}, "x").default_sigmas(
        TABLE, 10, "dpmpp_2m"
    )
    # these two round shaped levels to whole times
    rounded = 2e-2 if flag and name in CLASSES[2:] else 1e-4
    torch.testing.assert_close(ours.float(), theirs.sigmas.float(), rtol=rounded, atol=1e-4)


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("name", CLASSES[2:])
def test_a_walk_that_ends_at_the_first_level(name, flag, steps):
    """Levels that repeat there, and the order of the last step, are the class's own."""
    flags = {} if flag is None else {f"use_{flag}_sigmas": True}
    theirs = getattr(diffusers, name)(
        **BETAS, timestep_spacing="linspace", final_sigmas_type="sigma_min", **flags
    )
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs.set_timesteps(steps)
    want = start
    # the levels themselves, which are between whole times
    for sigma, time in zip(theirs.sigmas.double(), theirs.timesteps, strict=False):
        frame = want * (1 + sigma**2).sqrt()
        want = theirs.step((frame - toy(frame, sigma.expand(2))) / sigma, time, want).prev_sample
    config = SchedulerConfig.from_file({**theirs.config, "_class_name": name}, "x")
    sampler = config.bound_sampler(None, torch.randn_like, steps)
    sigmas = theirs.sigmas.double()
    torch.testing.assert_close(
        config.default_sigmas(TABLE, steps, config.sampler).float(),
        sigmas.float(),
        rtol=2e-2,
        atol=1e-4,
    )
    made = list(sampler(toy, start * (1 + sigmas[0] ** 2).sqrt(), sigmas))[-1].x
    torch.testing.assert_close(
        made / float((1 + sigmas[-1] ** 2).sqrt()), want.double(), atol=1e-5, rtol=0
    )
    other = build(config.sampler, torch.randn_like)(
        toy, start * (1 + sigmas[0] ** 2).sqrt(), sigmas
    )
    assert torch.isfinite(list(other)[-1].x).all()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_level_that_repeats_moves_nothing_far(name):
    sigmas = torch.tensor([10.0, 3.0, 0.5, 0.5], dtype=torch.float64)
    x = (
        torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        * 10
    )
    made = list(build(name, torch.zeros_like)(toy, x, sigmas))[-1].x
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm_takes_the_times_it_was_distilled_from(steps):
    theirs = diffusers.LCMScheduler(**BETAS)
    theirs.set_timesteps(steps)
    ours = SchedulerConfig.from_file(
        {**theirs.config, "_class_name": "LCMScheduler"}, "x"
    ).default_sigmas(TABLE, steps, "lcm")
    torch.testing.assert_close(ours[:-1], TABLE[theirs.timesteps].double())


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # diffusers' KDPM2
@pytest.mark.parametrize("name", [*CLASSES, *STOCHASTIC, "PNDMScheduler", "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler", "DPMSolverSinglestepScheduler"])  # fmt: skip
def test_what_a_class_writes_by_default_is_read(name, tmp_path):
    getattr(diffusers, name)().save_pretrained(tmp_path)
    config = SchedulerConfig.from_file(
        json.loads((tmp_path / "scheduler_config.json").read_text()), "x"
    )
    assert not SAMPLERS[config.sampler].stochastic or name in STOCHASTIC
    assert torch.isfinite(config.default_sigmas(TABLE, 7, config.sampler)).all()
    save_scheduler(config, tmp_path / "again")
    written = json.loads((tmp_path / "again/scheduler_config.json").read_text())
    assert SchedulerConfig.from_file(written, "x") == config
    known = inspect.signature(getattr(diffusers, written["_class_name"])).parameters
    assert {k for k in written if not k.startswith("_")} <= known.keys() | {"set_alpha_to_one"}, (
        "no key of ours, but how sampling by DDIM ends"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_a_folder_walks_as_its_scheduler_does(name, spacing, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    predicted = json.loads((tiny / "scheduler/scheduler_config.json").read_text())[
        "prediction_type"
    ]
    getattr(diffusers, name)(
        **BETAS, timestep_spacing=spacing, prediction_type=predicted
    ).save_pretrained(tmp_path / "m/scheduler")
    index = json.loads((tiny / "model_index.json").read_text())
    (tmp_path / "m/model_index.json").write_text(
        json.dumps({**index, "scheduler": ["diffusers", name]})
    )
    ours, theirs = same_picture(tmp_path / "m")
    assert (ours - theirs).abs().max() <= 1
