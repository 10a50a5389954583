"""Create: noise and a text in, a picture out.

:func:`walk` is the whole job as a generator of steps and pictures; :func:`create` collects the pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato import __version__, image, metadata
from sfumato.condition.text import NoText, is_spelled
from sfumato.corruption.mask import Mask
from sfumato.denoiser.consistency import consistent
from sfumato.errors import OptionError, unknown
from sfumato.hub.files import digest
from sfumato.hub.load import Model, load
from sfumato.runtime import MAX_SEED, Streams, derived, legible, random_seed
from sfumato.sampler.registry import SAMPLERS, WITH_ETA, build
from sfumato.sampler.schedule import SCHEDULES
from sfumato.tasks.create.options import CreateOptions
from sfumato.types import Condition, Denoise, Step


@dataclass(frozen=True)
class Made:
    """A finished picture.

    Attributes
    ----------
    picture : PIL.Image.Image
    prompt : str
        As the user wrote it.
    seed : int
    seconds : float
        Time of its batch, divided by the pictures in it.
    settings : dict
        All that it takes to make it again.
    cut : str
        The end of the prompt that the model did not see; usually empty.
    negative_cut : str
        The same of the negative prompt.
    unknown : bool
        Whether the model's vocabulary has no part of any word of the prompt, which it then reads byte by byte.
    """

    picture: Image.Image
    prompt: str
    seed: int
    seconds: float
    settings: dict[str, Any]
    cut: str = ""
    negative_cut: str = ""
    unknown: bool = False
    count: int = 1  # pictures that were asked for per prompt

    def save(self, path: Path | str) -> None:
        """Write the picture with its settings inside: ``.png``, ``.jpg`` or ``.webp``."""
        metadata.save(self.picture, Path(path), self.settings, metadata.parameters(self.settings, SAMPLERS[self.settings["sampler"]].label))


@dataclass(frozen=True)
class SamplerProgress:
    """One sampler step of one batch.

    Attributes
    ----------
    step : Step
        Latents before decoding.
    steps : int
        Steps of this batch.
    done, total : int
        Batches walked before this one, and in all; the tries of a picture may be several.
    """

    step: Step
    steps: int
    done: int
    total: int


def create(prompts: str | Sequence[str], options: CreateOptions | None = None, model: Model | None = None) -> list[Made]:
    """Make pictures from texts.

    Parameters
    ----------
    prompts : str or sequence of str
    options : CreateOptions, optional
    model : Model, optional
        A loaded model, to use it more than once; otherwise ``options.model`` is loaded.

    Returns
    -------
    list of Made
        ``count`` pictures per prompt, in order.

    Raises
    ------
    OptionError
        For options that the model cannot meet.

    Examples
    --------
    >>> made = create("a red apple", CreateOptions(seed=7, steps=2))
    >>> made[0].picture.size, made[0].seed
    ((64, 64), 7)
    """
    return [event for event in walk(prompts, options, model) if isinstance(event, Made)]


def walk(prompts: str | Sequence[str], options: CreateOptions | None = None, model: Model | None = None) -> Iterator[SamplerProgress | Made]:
    """Make pictures and yield every sampler step on the way; to cancel, stop iterating."""
    options = options or CreateOptions()
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    texts = [legible(text) for text in given]
    model = model or load(options.model, options.device, options.dtype)
    job = _Job(model, options)
    job.check(texts)
    seed = random_seed() if options.seed is None else options.seed
    if seed + options.count > MAX_SEED + 1:
        raise OptionError(f"seed {seed} and {options.count} pictures go beyond the largest seed, {MAX_SEED}")
    rows = [(text, seed + k) for text in texts for k in range(options.count)]
    at_once, parts = max(1, options.batch // len(job.tries)), []
    for _, equal in groupby(rows, lambda row: job.chunks(row[0])):  # beside a longer text a shorter one would be filled up
        part = list(equal)
        parts += [part[start : start + at_once] for start in range(0, len(part), at_once)]
    walks = [0, *accumulate(-(-len(part) * len(job.tries) // options.batch) for part in parts)]
    for part, done in zip(parts, walks, strict=False):
        yield from job.batch(part, done, walks[-1])


def check(prompts: Sequence[str], options: CreateOptions, model: Model) -> None:
    """Refuse what a model cannot do, before any work.

    Raises
    ------
    OptionError
    """
    _Job(model, options).check(prompts)


class _Job:
    """One call: a model, options, and what follows from both."""

    def __init__(self, model: Model, options: CreateOptions) -> None:
        self.model, self.options = model, options
        self.steps = options.steps or model.defaults.steps
        self.scale = model.defaults.guidance_scale if options.guidance_scale is None else options.guidance_scale
        self.best_of = options.best_of or model.defaults.best_of
        self.tries = range(self.best_of) if options.candidate is None else [options.candidate]
        self.sampler = options.sampler or model.scheduler.sampler
        source = image.read(options.source) if options.source else None
        self.profile: bytes | None
        stored, self.profile = image.read_stored(options.source) if options.source else (None, None)
        if options.mask and source is None:
            raise OptionError("--mask needs --from: the picture of which a part is made anew")
        hidden = image.read_mask(options.mask, source.size) if options.mask and source else None
        self.shown = self.size = options.size or (_nearest(source.size, model.unit) if source else model.size)
        if source and hidden and options.size in (None, source.size):  # no pixel that is kept may be scaled
            self.shown = source.size
            source, hidden = _filled_up(source, model.unit), _filled_up(hidden, model.unit)
            stored = _filled_up(stored, model.unit) if stored else None
            self.size = source.size
        self.source = image.crop_to(source, self.size) if source else None
        self.stored = image.crop_to(stored, self.size) if stored else None  # what is kept, in the source's own colors
        self.hidden = image.white(image.crop_to(hidden, self.size)) if hidden else None
        if self.hidden is not None and not self.hidden.any():
            raise OptionError(image.nothing_white(str(options.mask)))
        self.strength = options.strength if source else 1.0

    def check(self, texts: Sequence[str]) -> None:
        """Refuse what this model cannot do, before any work."""
        unit, styles = self.model.unit, self.model.defaults.styles
        if not texts or (self.model.defaults.needs_prompt and not all(t.strip() for t in texts)):
            raise OptionError("the prompt is empty; say what the picture shows")
        if isinstance(self.model.text, NoText) and any(t.strip() for t in texts):
            raise OptionError(f'{self.model.name} takes no text; give "" as the prompt')
        wrong = [n for n in self.size if n % unit or not unit <= n <= 4096]
        if wrong:
            near = "x".join(str(n) for n in _nearest(self.size, unit))
            raise OptionError(f"size {self.size[0]}x{self.size[1]}: both sides must be multiples of {unit} up to 4096; try {near}")
        if self.options.style and self.options.style not in styles:
            raise unknown("style", self.options.style, styles)
        channels = self.model.network.config.in_channels, self.model.space.config.latent_channels
        if channels[0] not in (channels[1], 2 * channels[1] + 1):
            raise OptionError(f"{self.model.name} sees {channels[0]} channels, more than latents of {channels[1]} and a mask: what else is not known")
        if self.options.eta is not None and self.sampler not in WITH_ETA:
            raise OptionError(f"--eta is for samplers that take one ({', '.join(sorted(WITH_ETA))}); {self.sampler} does not")
        if self.options.negative_prompt and self.scale == 1:
            raise OptionError("a negative prompt needs guidance to turn away from it: --guidance-scale is 1, which is none")
        if self.options.guidance_rescale and self.scale == 1:
            raise OptionError("--guidance-rescale pulls guidance back: --guidance-scale is 1, which is none")
        if len(self.tries) > 1 and self.model.matcher is None:
            raise OptionError(f"{self.model.name} has no matcher/ that could choose the best of {len(self.tries)}; sfumato train matcher makes one")

    def batch(self, rows: list[tuple[str, int]], done: int, total: int) -> Iterator[SamplerProgress | Made]:
        """Make some pictures: all tries of each, of which the best are kept."""
        begun = time.perf_counter()
        tries, at_once = len(self.tries), self.options.batch
        wanted = [(self.styled(text), derived(seed, k)) for text, seed in rows for k in self.tries]
        parts, cut, sigmas = [], [], self.sigmas()
        for start in range(0, len(wanted), at_once):
            pixels, unseen = yield from self.walk(wanted[start : start + at_once], sigmas, done + start // at_once, total)
            parts.append(pixels)
            cut += unseen
        pixels = torch.cat(parts)
        kept = self.best(pixels, [text for text, _ in wanted])
        pictures = [self.keep(p) for p in image.to_pictures(pixels[[k * tries + best for k, best in enumerate(kept)]])]
        seconds = (time.perf_counter() - begun) / len(rows)
        for k, ((text, seed), picture, best) in enumerate(zip(rows, pictures, kept, strict=True)):
            settings = self.settings(text, seed, sigmas, self.tries[best])
            yield Made(picture, text, seed, seconds, settings, *cut[k * tries], is_spelled(self.model.text, text), self.options.count)

    @torch.inference_mode()  # of a generator: while it works, not while others do between its steps
    def walk(
        self, wanted: Sequence[tuple[str, int]], sigmas: Tensor, done: int, total: int
    ) -> Generator[SamplerProgress, None, tuple[Tensor, list[tuple[str, str]]]]:
        """From noise to pixels (B, 3, H, W) at once, each try from its own random stream; and what was cut of the two prompts."""
        model, texts = self.model, [text for text, _ in wanted]
        condition, tokens = model.text(texts, self.size)
        negative, others = model.text([self.options.negative_prompt] * len(texts), self.size)
        streams = Streams([seed for _, seed in wanted])
        x, denoise = self.start(streams, sigmas, condition, negative)
        first_order = self.options.schedule == "auto" and model.scheduler.first_order_end(self.sampler, len(sigmas) - 1)
        sampler = build(self.sampler, streams.like, self.options.eta, first_order_end=first_order)
        for step in sampler(denoise, x, sigmas):
            x = step.x
            yield SamplerProgress(step, len(sigmas) - 1, done, total)
        return model.space.decode(x), [(a.cut, b.cut) for a, b in zip(tokens, others, strict=True)]

    def best(self, pixels: Tensor, texts: Sequence[str]) -> list[int]:
        """Of each picture's tries, the one that matches its text best."""
        matcher, tries = self.model.matcher, len(self.tries)
        if tries == 1 or matcher is None:
            return [0] * (len(texts) // tries)
        with torch.inference_mode():
            shown, said = matcher.pictures(pixels.to(matcher.to_space.weight)), matcher.texts(self.model.text.pooled(texts).float())
        scores = (shown * said).sum(dim=1)
        return [int(k) for k in scores.view(-1, tries).argmax(dim=1)]

    def style(self, text: str) -> str | None:
        """The style asked for; else the model's own, unless the prompt says more than a subject (it has a comma)."""
        return self.options.style or (None if "," in text else self.model.defaults.style)

    def styled(self, text: str) -> str:
        """The prompt with the words of its style behind it."""
        words = self.model.defaults.styles.get(self.style(text) or "")
        return f"{text}, {words}" if words else text

    def chunks(self, text: str) -> int:
        """How many chunks of tokens the prompt takes."""
        return self.model.text.chunks(self.styled(text))

    def sigmas(self) -> Tensor:
        """The noise levels to walk; with a source picture only the lower ones, by strength. So many as the table has, at most."""
        table, config = self.model.denoiser.times.sigmas, self.model.scheduler
        steps = max(self.steps, math.ceil(min(len(table), self.steps / self.strength)))
        if self.options.schedule == "auto":
            sigmas = config.default_sigmas(table, steps, self.sampler)
        else:
            sigmas = SCHEDULES[self.options.schedule](table, steps)
        kept = min(self.steps, max(1, round(self.strength * (len(sigmas) - 1))))  # a schedule may have fewer levels than steps
        levels: Tensor = sigmas[-(kept + 1) :]
        return levels

    def start(self, streams: Streams, sigmas: Tensor, condition: Condition, negative: Condition) -> tuple[Tensor, Denoise]:
        """The noisy latents to begin with, and the guided denoiser."""
        model, top = self.model, float(sigmas[0])
        channels, factor = model.space.config.latent_channels, model.space.config.factor
        noise = streams.normal((len(streams.generators), channels, self.size[1] // factor, self.size[0] // factor)).to(model.device)
        if self.source is None:
            # Variance-preserving: the last level still holds a little of the picture, so its own variance is added.
            x, z = noise * math.sqrt(1 + top**2), None
        else:
            z = model.space.encode(image.to_tensor(self.source).to(model.device)).float()
            x = z + top * noise
        planes = self.planes(noise)
        condition, negative = (Condition(c.tokens, c.vector, planes) for c in (condition, negative))
        denoise = model.guided(condition, negative, self.scale, rescale=self.options.guidance_rescale)
        if self.hidden is not None and z is not None and planes is None:
            known = Mask(_latent_known(self.hidden, factor).to(model.device))
            denoise = consistent(denoise, known, known.apply(z))
        return x, denoise

    def planes(self, like: Tensor) -> Tensor | None:
        """What a model trained to fill (9 channels) sees besides: the mask, and the latents of the picture without it."""
        model = self.model
        if model.network.config.in_channels != 2 * like.shape[1] + 1:
            return None
        hidden = self.hidden if self.hidden is not None else np.ones(self.size[::-1], bool)
        pixels = image.to_tensor(self.source or Image.new("RGB", self.size)).to(model.device)
        gap = torch.from_numpy(hidden)[None, None].to(pixels)
        with torch.inference_mode():
            seen = model.space.encode(pixels * (1 - gap)).to(like)
        small = 1 - _latent_known(hidden, model.space.config.factor).to(like)
        return torch.cat([small[None, None], seen], dim=1).expand(len(like), -1, -1, -1)

    def keep(self, made: Image.Image) -> Image.Image:
        """Put the source's own pixels back wherever the mask is black, and cut off what was filled up."""
        if self.hidden is None or self.stored is None:
            return made
        if self.profile is not None:
            made = image.from_srgb(made, self.profile)
        kept = Image.fromarray(np.where(self.hidden[..., None], np.asarray(made), np.asarray(self.stored))).crop((0, 0, *self.shown))
        if self.profile is not None:
            kept.info["icc_profile"] = self.profile
        return kept

    def settings(self, text: str, seed: int, sigmas: Tensor, candidate: int) -> dict[str, Any]:
        """All that it takes to make the picture again, for its metadata."""
        given = self.options.model_dump(mode="json", exclude={"count", "batch", "device", "seed"})
        found = {
            "task": "create",
            "version": __version__,
            "model": self.model.name,
            "dtype": str(self.model.network.conv_in.weight.dtype).removeprefix("torch."),  # what auto was then
            "prompt": text,
            "styled": self.styled(text),
            "seed": seed,
            "best_of": self.best_of,
            "candidate": candidate,
            "style": self.style(text),
            "steps": self.steps,
            "guidance_scale": self.scale,
            "sampler": self.sampler,
            "size": list(self.shown),
            "sigmas": [round(float(s), 6) for s in sigmas],
            "model_sha256": self.model.sha256,
            "parts": self.model.parts,
            **{f"{kind}_sha256": digest(Path(path)) for kind, path in (("source", self.options.source), ("mask", self.options.mask)) if path},
        }
        return {**given, **found}


def _nearest(size: tuple[int, int], unit: int) -> tuple[int, int]:
    wide, tall = (min(4096 // unit * unit, max(unit, round(n / unit) * unit)) for n in size)
    return wide, tall


def _filled_up(picture: Image.Image, unit: int) -> Image.Image:
    """Mirrored at its right and lower edge until both sides are multiples of `unit`."""
    values = np.asarray(picture)
    edges = [(0, -picture.height % unit), (0, -picture.width % unit), *[(0, 0)] * (values.ndim - 2)]
    return Image.fromarray(np.pad(values, edges, mode="symmetric"))


def _latent_known(hidden: np.ndarray, factor: int) -> Tensor:
    """Latent positions (h, w) all of whose pixels are known."""
    tall, wide = hidden.shape
    blocks = hidden.reshape(tall // factor, factor, wide // factor, factor)
    return torch.from_numpy(1.0 - blocks.any(axis=(1, 3)).astype(np.float32))
