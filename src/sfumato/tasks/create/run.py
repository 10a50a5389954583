"""Generate pictures from noise and prompts.

:func:`stream` is a generator of steps and pictures that does all the work; :func:`create` collects
the pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato import image, metadata
from sfumato.condition.words import knows_no_word
from sfumato.denoiser.consistency import consistent
from sfumato.denoiser.guidance import switched
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.progress import relayed
from sfumato.runtime import MAX_SEED, Streams, derive_seed, random_seed, replace_surrogates
from sfumato.sampler.registry import build, labels_of
from sfumato.tasks.create.cutout import transparent
from sfumato.tasks.create.inpaint import initial_latents, paste_known
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import Plan, check, load_model, make_plan
from sfumato.tasks.names import names_in_place_of
from sfumato.tasks.upscale import STEPS, upscale
from sfumato.types import Condition, Denoise, Progress, Reporting, Step

ENLARGING = 64  # number of the upscaler's random stream; candidates have lower numbers


@dataclass(frozen=True)
class Made:
    """A generated picture.

    Attributes
    ----------
    picture : PIL.Image.Image
    prompt : str
        As the user wrote it.
    seed : int
    seconds : float
        Time of the batch, divided by its number of pictures.
    settings : dict
        All settings needed to reproduce the picture.
    cut : str
        Text cut off at the end of the prompt, if the prompt is too long for the model; usually
        empty.
    negative_cut, then_cut : str
        End of the negative prompt, and of the text of ``then``, that was cut off.
    unknown, then_unknown : bool
        True if the model seems to know none of the words of the prompt, or of ``then``. False with
        LoRAs, which may know other words.
    near : list of str, optional
        Names of training pictures with a meaning similar to the prompt. None if the name of a
        training picture contains a word of the prompt, if the model has no list of names, and with
        LoRAs.
    count : int
        Requested number of pictures per prompt.
    """

    picture: Image.Image
    prompt: str
    seed: int
    seconds: float
    settings: dict[str, Any]
    cut: str = ""
    negative_cut: str = ""
    unknown: bool = False
    near: list[str] | None = None
    then_cut: str = ""
    then_unknown: bool = False
    count: int = 1  # requested pictures per prompt

    def save(self, path: Path | str) -> None:
        """Write a ``.png``, ``.jpg`` or ``.webp`` file with the settings in its metadata."""
        metadata.save(
            self.picture,
            Path(path),
            self.settings,
            metadata.parameters(self.settings, *labels_of(self.settings)),
        )


@dataclass(frozen=True)
class SamplerProgress:
    """One sampler step of one batch.

    Attributes
    ----------
    step : Step
        Record of the step; its latents are not decoded.
    steps : int
        Steps of this batch.
    done, total : int
        Batches sampled before this batch, and number of all batches. The candidates of one picture
        may take several batches.
    """

    step: Step
    steps: int
    done: int
    total: int

    @property
    def progress(self) -> Progress:
        """Steps done, out of the steps of all batches."""
        made = self.done * self.steps + self.step.index + 1
        return Progress("steps", made, self.total * self.steps)


Event = SamplerProgress | Progress | Made


def create(
    prompts: str | Sequence[str], options: CreateOptions | None = None, model: Model | None = None
) -> list[Made]:
    """Generate pictures from prompts.

    Parameters
    ----------
    prompts : str or sequence of str
    options : CreateOptions, optional
    model : Model, optional
        A loaded model, to use it more than once; by default, ``options.model`` is loaded. The
        options `model`, `device`, `dtype`, `loras` and `fast` belong to :func:`sfumato.load` and do
        not change a loaded model.

    Returns
    -------
    list of Made
        ``count`` pictures per prompt, in order.

    Raises
    ------
    OptionError
        For options that the model cannot meet.
    PictureError
        If the start picture or the mask cannot be read.
    ModelError, ConfigError
        If the model cannot be loaded.

    Examples
    --------
    >>> made = create("a red apple", CreateOptions(seed=7, steps=2))
    >>> made[0].picture.size, made[0].seed
    ((64, 64), 7)
    """
    return [event for event in stream(prompts, options, model) if isinstance(event, Made)]


def stream(
    prompts: str | Sequence[str], options: CreateOptions | None = None, model: Model | None = None
) -> Iterator[Event]:
    """As :func:`create`, but yield every sampler step, the progress of enlarging, and each picture.

    To cancel, stop iterating.

    Yields
    ------
    SamplerProgress, Progress or Made
        After each sampler step; after each part of the enlarging; for each picture.
    """
    plan, rows = plan_pictures(prompts, CreateOptions.of(options), model)
    yield from stream_rows(plan, rows)


def plan_pictures(
    prompts: str | Sequence[str], options: CreateOptions, model: Model | None = None
) -> tuple[Plan, list[tuple[str, int]]]:
    """Plan and check the work: return the plan, and the prompt and seed of each picture.

    Raises
    ------
    OptionError
        For options that the model cannot meet.
    """
    if not isinstance(prompts, str | Iterable | None):
        raise OptionError(f"a prompt must be a string, not {prompts!r:.60}")
    given = [prompts] if isinstance(prompts, str) else list(prompts or ())
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise OptionError(f"a prompt must be a string, not {wrong[0]!r:.60}")
    if model is not None and not isinstance(model, Model):
        raise OptionError(f"model must be a loaded model: sfumato.load({model!r:.60})")
    texts = [replace_surrogates(text) for text in given]
    plan = make_plan(options, model or load_model(options))
    check(texts, plan)
    seed = random_seed() if options.seed is None else options.seed
    return plan, seeded_rows(texts, seed, options.count)


def seeded_rows(texts: Sequence[str], seed: int, count: int) -> list[tuple[str, int]]:
    """Return the prompt and seed of each picture: `count` pictures per prompt.

    Raises
    ------
    OptionError
        If a seed would be too large.
    """
    if seed + count > MAX_SEED + 1:
        raise OptionError(
            f"seed {seed} and {count} pictures go beyond the largest seed, {MAX_SEED}"
        )
    return [(text, seed + k) for text in texts for k in range(count)]


def stream_rows(plan: Plan, rows: list[tuple[str, int]]) -> Iterator[Event]:
    """Follow a checked plan: generate a picture for each prompt and seed, in order.

    All candidates of a picture are generated, and the best is kept.
    """
    batches, at_once, sigmas = _batches(plan, rows), plan.options.batch, plan.sigmas()
    total = sum(-(-len(batch) * len(plan.tries) // at_once) for batch in batches)
    done = 0
    for batch in batches:
        started = time.perf_counter()
        wanted = [
            (plan.styled(text), derive_seed(seed, k)) for text, seed in batch for k in plan.tries
        ]
        parts, cut = [], []
        for start in range(0, len(wanted), at_once):
            part = wanted[start : start + at_once]
            made, unseen = yield from _sample(plan, part, sigmas, done, total)
            parts.append(made)
            cut += unseen
            done += 1
        pixels = torch.cat(parts)
        best = _best(plan, pixels, [text for text, _ in wanted])
        kept = [k * len(plan.tries) + one for k, one in enumerate(best)]
        pictures = yield from _to_pictures(plan, pixels[kept], [wanted[k] for k in kept])
        seconds = (time.perf_counter() - started) / len(batch)
        for k, ((text, seed), picture) in enumerate(zip(batch, pictures, strict=True)):
            settings = plan.settings(text, seed, sigmas, plan.tries[best[k]])
            yield _made(plan, text, seed, picture, seconds, settings, cut[kept[k]])


def _batches(plan: Plan, rows: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Group rows into batches whose prompts take equally many chunks of tokens.

    In a batch with a longer prompt, a shorter one would be padded, and its picture would change.
    """
    at_once = max(1, plan.options.batch // len(plan.tries))
    batches = []
    for _, group in groupby(rows, lambda row: plan.chunks(row[0])):
        equal = list(group)
        batches += [equal[start : start + at_once] for start in range(0, len(equal), at_once)]
    return batches


def _made(
    plan: Plan,
    text: str,
    seed: int,
    picture: Image.Image,
    seconds: float,
    settings: dict[str, Any],
    cut: list[str],
) -> Made:
    """Combine a picture with its settings and notes; `cut` are the ends of the texts."""
    options, model = plan.options, plan.model
    unknown, then_unknown = (
        not model.loras and knows_no_word(model.text, plan.named(said))
        for said in (text, options.then or "")
    )
    near = None if unknown or model.loras else names_in_place_of(model, plan.named(text))
    whole = paste_known(plan, picture)
    shown = transparent(whole) if options.transparent else whole
    prompt_cut, negative_cut, then_cut = cut
    return Made(
        shown,
        text,
        seed,
        seconds,
        settings,
        cut=prompt_cut,
        negative_cut=negative_cut,
        then_cut=then_cut,
        unknown=unknown,
        then_unknown=then_unknown,
        near=near,
        count=options.count,
    )


def _to_pictures(
    plan: Plan, pixels: Tensor, wanted: Sequence[tuple[str, int]]
) -> Reporting[list[Image.Image]]:
    """Convert pixels to pictures, and enlarge them if the plan says so."""
    if not plan.enlarged:
        as_made = image.to_pictures(pixels)
        if plan.options.mask is not None:  # its padding is cropped later
            return as_made
        return [image.crop_to(picture, plan.shown) for picture in as_made]
    # each enlargement works on 16 times as many pixels as the one before
    work = [16**k for k in range(plan.enlarged)]
    done, total = 0, len(wanted) * STEPS * sum(work)
    # loaded only now, because loading takes longer than a step
    yield Progress("enlarging", done, total)
    upscaler, pictures = plan.model.upscaler, []
    assert upscaler is not None
    for k, (text, seed) in enumerate(wanted):
        tokens = plan.model.text([text], plan.size)[0].tokens
        noise, made = Streams([derive_seed(seed, ENLARGING)]).like, pixels[[k]].float()
        for cost in work:
            enlarging = upscale(upscaler, made, tokens, noise)
            made = yield from _counted(enlarging, done, cost, total)
            done += STEPS * cost
        picture = image.to_pictures(made)[0]
        if plan.start is not None and plan.start.replaced is not None:  # must fit the known pixels
            picture = picture.resize(plan.shown, Image.Resampling.LANCZOS)
        pictures.append(image.crop_to(picture, plan.shown))
    return pictures


def _counted(enlarging: Reporting[Tensor], done: int, cost: int, total: int) -> Reporting[Tensor]:
    """Convert the steps of an enlargement to the progress of all enlargements."""
    return relayed(enlarging, lambda step: Progress(step.what, done + step.done * cost, total))


# on a generator, this mode is active while the generator runs, not between its steps
@torch.inference_mode()
def _sample(
    plan: Plan, wanted: Sequence[tuple[str, int]], sigmas: Tensor, done: int, total: int
) -> Generator[SamplerProgress, None, tuple[Tensor, list[list[str]]]]:
    """Sample pictures (B, 3, H, W); also return the ends cut from prompts, negative prompts and
    the texts of ``then``.

    Each candidate has its own random stream.
    """
    model, options, texts = plan.model, plan.options, [text for text, _ in wanted]
    condition, tokens = model.text(texts, plan.size)
    negative, others = model.text([options.negative_prompt] * len(texts), plan.size)
    later, ends = condition, [""] * len(texts)
    if options.then is not None:
        later, rest = model.text([plan.styled(options.then)] * len(texts), plan.size)
        ends = [said.cut for said in rest]
    streams = Streams([seed for _, seed in wanted])
    x, planes, known = initial_latents(plan, streams, float(sigmas[0]))
    taken = 0  # steps
    denoise = _guided_denoiser(plan, condition, later, negative, planes, lambda: taken)
    denoise = denoise if known is None else consistent(denoise, *known)
    steps = len(sigmas) - 1
    if options.schedule == "auto":
        sampler = model.scheduler.bound_sampler(plan.sampler, streams.like, steps, options.eta)
    else:
        sampler = build(plan.sampler, streams.like, options.eta)
    for step in sampler(denoise, x, sigmas):
        x, taken = step.x, step.index + 1
        yield SamplerProgress(step, steps, done, total)
    cut = [[a.cut, b.cut, end] for a, b, end in zip(tokens, others, ends, strict=True)]
    return model.space.decode(x), cut


def _guided_denoiser(
    plan: Plan,
    condition: Condition,
    later: Condition,
    negative: Condition,
    planes: Tensor | None,
    taken: Callable[[], int],
) -> Denoise:
    """The guided denoiser, which may change condition or guidance scale at ``then_step``.

    From this step on, it follows `later`. `taken` returns the number of steps taken so far.
    """
    model, options = plan.model, plan.options

    def guided(follow: Condition, scale: float) -> Denoise:
        plus, minus = (Condition(c.tokens, c.vector, planes) for c in (follow, negative))
        return model.guided(plus, minus, scale, rescale=options.guidance_rescale)

    first = guided(condition, plan.guidance_scale)
    if not plan.branches or options.then_step is None:
        return first
    before = options.then_step - 1
    return switched(first, guided(later, plan.then_scale), lambda: taken() >= before)


def _best(plan: Plan, pixels: Tensor, texts: Sequence[str]) -> list[int]:
    """The index of each picture's candidate that matches its prompt best."""
    matcher, count = plan.model.matcher, len(plan.tries)
    if count == 1 or matcher is None:
        return [0] * (len(texts) // count)
    with torch.inference_mode():
        pictures = matcher.pictures(pixels.to(matcher.to_space.weight))
        said = matcher.texts(plan.model.text.pooled(texts).float())
        scores = (pictures * said).sum(dim=1).view(-1, count)
    return [int(k) for k in scores.argmax(dim=1)]
