"""Combine options and a model into a plan.

All values that the options leave open are set in the plan, before any work starts.

:func:`make_plan` creates a :class:`Plan`; :func:`check` raises an error for what the model cannot
do. Code that follows a plan makes no further choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import __version__, image
from sfumato.condition.text import NoText
from sfumato.condition.words import with_names
from sfumato.errors import OptionError, unknown
from sfumato.hub.files import digest_of
from sfumato.hub.load import Model, load
from sfumato.hub.lora import lora_scale
from sfumato.sampler.registry import WITH_ETA
from sfumato.sampler.schedule import SCHEDULES
from sfumato.space.detail import Detail
from sfumato.tasks.create.options import CreateOptions

LARGEST = 4096  # largest side in pixels
ENLARGED = 1024  # largest side in pixels of a picture from the upscaler
Size = tuple[int, int]  # width and height


@dataclass(frozen=True)
class Start:
    """A picture to start from.

    Attributes
    ----------
    picture : Image
        RGB, at the size at which the model works.
    stored : Image
        The same picture in the file's own color space, with transparency. Pixels where the mask is
        not white are copied from it into the result.
    profile : bytes, optional
        The color profile of `stored`.
    hidden : array, (H, W), bool, optional
        Pixels of `picture` to inpaint; None for all.
    replaced : array, (H, W), bool, optional
        Pixels of `stored` that inpainted pixels replace. They differ from `hidden` if the model
        works at a smaller size.
    """

    picture: Image.Image
    stored: Image.Image
    profile: bytes | None
    hidden: NDArray[np.bool_] | None = None
    replaced: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Plan:
    """All choices for one call of create: model, options, and the values that follow from both.

    Attributes
    ----------
    model : Model
    options : CreateOptions
    steps : int
    guidance_scale : float
    sampler : str
    best_of : int
        Candidates per picture.
    tries : sequence of int
        Indices, from 0, of the candidates to generate.
    size, shown : (int, int)
        Width and height at which the model works, and width and height of the result.
    enlarged : int
        How many times the upscaler is applied; each time the sides become four times as long.
    start : Start, optional
    strength : float
        How much the start picture changes, in (0, 1]: the share of the noise levels that is used; 1
        without a start.
    """

    model: Model
    options: CreateOptions
    steps: int
    guidance_scale: float
    sampler: str
    best_of: int
    tries: Sequence[int]
    size: Size
    shown: Size
    enlarged: int
    start: Start | None
    strength: float

    def style(self, text: str) -> str | None:
        """The chosen style, or else the model's default style.

        A prompt with a comma describes more than a subject, so it gets no default style.
        """
        return self.options.style or (None if "," in text else self.model.defaults.style)

    def styled(self, text: str) -> str:
        """The prompt, followed by the words of its style."""
        words = self.model.defaults.styles.get(self.style(text) or "")
        return f"{self.named(text)}, {words}" if words else self.named(text)

    def named(self, text: str) -> str:
        """The prompt with names in place of emoji that the model does not know."""
        return with_names(self.model.text, text)

    @property
    def branches(self) -> bool:
        """Whether the prompt or the guidance scale changes at some step."""
        options = self.options
        return options.then is not None or options.then_guidance_scale is not None

    @property
    def then_scale(self) -> float:
        """The guidance scale from ``then_step`` on."""
        scale = self.options.then_guidance_scale
        return self.guidance_scale if scale is None else scale

    def chunks(self, text: str) -> int:
        """How many chunks of tokens the prompt takes."""
        return self.model.text.chunks(self.styled(text))

    def sigmas(self) -> Tensor:
        """Noise levels of the run.

        With a start picture, only the lowest noise levels are used: the share `strength` of all
        levels. To keep `steps` steps, a schedule of about ``steps / strength`` steps is made, and
        only its last `steps` steps are used. The schedule cannot have more steps than the model has
        noise levels, so with a very low strength fewer than `steps` steps remain.
        """
        table, config = self.model.denoiser.times.sigmas, self.model.scheduler
        steps = max(self.steps, math.ceil(min(len(table), self.steps / self.strength)))
        if self.options.schedule == "auto":
            sigmas = config.default_sigmas(table, steps, self.sampler)
        else:
            sigmas = SCHEDULES[self.options.schedule](table, steps)
        # a schedule may have fewer levels than steps
        kept = min(self.steps, max(1, round(self.strength * (len(sigmas) - 1))))
        levels: Tensor = sigmas[-(kept + 1) :]
        return levels

    def settings(self, text: str, seed: int, sigmas: Tensor, candidate: int) -> dict[str, Any]:
        """All settings needed to reproduce a picture, for its metadata."""
        options, model = self.options, self.model
        given = options.model_dump(mode="json", exclude={"count", "batch", "device", "seed"})
        files = {"source": options.source, "mask": options.mask}
        found = {
            "task": "create",
            "version": __version__,
            "model": model.name,
            # the dtype that auto chose
            "dtype": str(model.network.conv_in.weight.dtype).removeprefix("torch."),
            "prompt": text,
            "styled": self.styled(text),
            "seed": seed,
            "best_of": self.best_of,
            "candidate": candidate,
            "style": self.style(text),
            **({"then_styled": self.styled(options.then)} if options.then else {}),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "size": list(self.shown),
            "sigmas": [round(float(s), 6) for s in sigmas],
            "model_sha256": model.sha256,
            "parts": model.parts,
            **{f"{kind}_sha256": digest_of(file) for kind, file in files.items() if file},
        }
        return {**given, **found}


def load_model(options: CreateOptions) -> Model:
    """Load the model and the LoRAs that the options name."""
    return load(options.model, options.device, options.dtype, options.loras, fast=options.fast)


def make_plan(options: CreateOptions, model: Model) -> Plan:
    """Make every choice that the options leave to the model.

    Raises
    ------
    OptionError
        For a mask without a start picture, without white pixels, or of another size.
    PictureError
        If a file cannot be read.
    """
    defaults = model.defaults
    start, size, shown, enlarged = _start(options, model)
    best_of, scale = options.best_of or defaults.best_of, options.guidance_scale
    return Plan(
        model,
        options,
        steps=options.steps or defaults.steps,
        guidance_scale=defaults.guidance_scale if scale is None else scale,
        sampler=options.sampler or model.scheduler.sampler,
        best_of=best_of,
        tries=range(best_of) if options.candidate is None else [options.candidate],
        size=size,
        shown=shown,
        enlarged=enlarged,
        start=start,
        strength=options.strength if start else 1.0,
    )


def _start(options: CreateOptions, model: Model) -> tuple[Start | None, Size, Size, int]:
    """The picture to start from, the size to work at, the size of the result, and how often the
    picture is enlarged.
    """
    if options.source is None:
        if options.mask:
            raise OptionError("--mask needs --from, the picture to inpaint")
        shown = options.size or model.size
        size, enlarged = _working_size(shown, model)
        return None, size, shown, enlarged
    if options.mask:
        return _start_inpainting(options.source, options.mask, options.size, model)
    source, (stored, profile) = image.read(options.source), image.read_stored(options.source)
    shown = options.size or _nearest(source.size, model.unit)
    size, enlarged = _working_size(shown, model)
    start = Start(image.crop_to(source, size), image.crop_to(stored, size), profile)
    return start, size, shown, enlarged


def _start_inpainting(
    picture: str | bytes, white: str | bytes, wanted: Size | None, model: Model
) -> tuple[Start, Size, Size, int]:
    """The picture and the mask of inpainting, and the sizes as in :func:`_start`."""
    source, (stored, profile) = image.read(picture), image.read_stored(picture)
    mask = image.read_mask(white, source.size)
    shown = wanted or source.size  # without a size, kept pixels are not scaled
    source, stored, mask = (image.crop_to(part, shown) for part in (source, stored, mask))
    replaced = image.white(mask)
    if not replaced.any():
        raise OptionError(image.nothing_white(white))
    size, enlarged = _working_size(shown, model)
    if enlarged:
        small = source.resize(size, Image.Resampling.LANCZOS)
        # a pixel of the small picture is hidden if a part of it is
        binary = Image.fromarray(replaced.astype(np.uint8) * 255)
        hidden = np.asarray(binary.resize(size, Image.Resampling.BOX)) > 0
        start = Start(small, stored, profile, hidden, replaced)
        return start, size, shown, _times_enlarged(size, shown)
    source, stored, mask = (_pad_to_multiple(part, model.unit) for part in (source, stored, mask))
    hidden = image.white(mask)
    return Start(source, stored, profile, hidden, hidden), source.size, shown, 0


def _times_enlarged(size: Size, shown: Size) -> int:
    """How often an inpainted picture is enlarged before it is resized to the source's size.

    The upscaler's result has sides of at most `ENLARGED` pixels. If the source is only slightly
    larger than this result, it is not enlarged once more: resizing makes up the difference.
    """
    factor = Detail().config.factor
    most = int(math.log(ENLARGED / max(size), factor) + 1e-9)
    wanted = math.ceil(math.log(max(shown) / max(size), factor) - 0.1)
    return min(most, max(1, wanted))


def _working_size(size: Size, model: Model) -> tuple[Size, int]:
    """The size at which the model works for a picture of `size`, and how often it is enlarged.

    A model with an upscaler works at about its own size, also for smaller pictures.
    """
    own = max(model.size)
    fits = max(size) == own and not any(n % model.unit for n in size)
    if fits or model.upscaler is None:
        return size, 0
    worked = _nearest(
        (round(size[0] * own / max(size)), round(size[1] * own / max(size))), model.unit
    )
    times, factor = 0, Detail().config.factor
    while any(n * factor**times < wanted for n, wanted in zip(worked, size, strict=True)):
        times += 1
    return worked, times


def check(prompts: Sequence[str], plan: Plan) -> None:
    """Raise an error, before any work, if the model cannot follow the plan.

    Raises
    ------
    OptionError
    """
    _check_loaded(plan)
    _check_texts(prompts, plan.model)
    _check_size(plan)
    _check_options(plan)


def _check_loaded(plan: Plan) -> None:
    """Refuse LoRAs and `fast` for a model that was loaded without them."""
    options, model = plan.options, plan.model
    loaded = {_lora_key(name) for name in model.loras}
    for name in options.loras:
        if _lora_key(name) not in loaded:
            raise OptionError(
                f"the given model was loaded without the LoRA {name}; give the LoRA to sfumato.load"
            )
    if options.fast and not model.fast:
        raise OptionError("the given model was loaded without fast; give fast=True to sfumato.load")


def _lora_key(asked: str) -> tuple[Path, float]:
    """Parse a LoRA option to an absolute path and a scale, so that equal options compare equal."""
    name, scale = lora_scale(asked)
    return Path(name).absolute(), scale


def _check_texts(texts: Sequence[str], model: Model) -> None:
    empty = not all(text.strip() for text in texts)
    if not texts or (model.defaults.needs_prompt and empty):
        raise OptionError("the prompt is empty; say what the picture shows")
    if isinstance(model.text, NoText) and any(text.strip() for text in texts):
        raise OptionError(f'{model.name} takes no text; give "" as the prompt')


def _check_size(plan: Plan) -> None:
    unit, (wide, tall) = plan.model.unit, plan.size
    inpaints = plan.start is not None and plan.start.replaced is not None
    if plan.enlarged and max(plan.shown) > ENLARGED and not inpaints:
        wide, tall = plan.shown
        raise OptionError(
            f"size {wide}x{tall}: {plan.model.name} generates sides of up to {ENLARGED} pixels; "
            "give a smaller --size"
        )
    if any(n % unit or not unit <= n <= LARGEST for n in plan.size):
        near = "x".join(str(n) for n in _nearest(plan.size, unit))
        raise OptionError(
            f"size {wide}x{tall}: both sides must be multiples of {unit} up to {LARGEST}; "
            f"try {near}"
        )


def _check_options(plan: Plan) -> None:
    options, model = plan.options, plan.model
    usual = CreateOptions.model_fields["strength"].default
    if options.source is None and options.strength != usual:
        raise OptionError("--strength needs --from: it sets how much of the start picture changes")
    if options.style and options.style not in model.defaults.styles:
        raise unknown("style", options.style, model.defaults.styles)
    seen, made = model.network.config.in_channels, model.space.config.latent_channels
    if seen not in (made, 2 * made + 1):
        raise OptionError(
            f"{model.name} has {seen} input channels; only {made} (the latents) or {2 * made + 1} "
            "(latents, a mask and the latents of the masked picture) are supported"
        )
    if options.eta is not None and plan.sampler not in WITH_ETA:
        takers = ", ".join(sorted(WITH_ETA))
        raise OptionError(f"--eta works only with the samplers {takers}, not with {plan.sampler}")
    steps = len(plan.sigmas()) - 1  # a schedule may have fewer levels than steps
    if options.then_step is not None and options.then_step > steps:
        raise OptionError(f"--then-step is {options.then_step}, but there are {steps} steps")
    unguided = plan.guidance_scale == 1 and plan.then_scale == 1
    if options.fast and not unguided:
        raise OptionError("--fast works without guidance: leave --guidance-scale out")
    if options.negative_prompt and unguided:
        cause = "--fast" if options.fast else "--guidance-scale 1"
        raise OptionError(f"a negative prompt needs guidance: with {cause} there is none")
    if options.guidance_rescale and unguided:
        raise OptionError(
            "--guidance-rescale has no effect without guidance: with --guidance-scale 1 there is "
            "none"
        )
    if len(plan.tries) > 1 and model.matcher is None:
        raise OptionError(
            f"{model.name} has no matcher to choose the best of {len(plan.tries)} candidates; "
            "sfumato train matcher trains one"
        )


def _nearest(size: Size, unit: int) -> Size:
    most = LARGEST // unit * unit
    wide, tall = (min(most, max(unit, round(n / unit) * unit)) for n in size)
    return wide, tall


def _pad_to_multiple(picture: Image.Image, unit: int) -> Image.Image:
    """Pad a picture by mirroring at its right and lower edge, to multiples of `unit`."""
    values = np.asarray(picture)
    edges = [(0, -picture.height % unit), (0, -picture.width % unit), *[(0, 0)] * (values.ndim - 2)]
    return Image.fromarray(np.pad(values, edges, mode="symmetric"))
