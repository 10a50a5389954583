"""A trace: what happened inside while a picture was made.

It is recorded from the walk that makes the picture (:func:`sfumato.tasks.create.run.walk`), by a
denoiser of its own that shares the model's network, so the picture is the one that is made without
it, and other runs of the model are not seen. The weights of attention, which fused kernels do not
give away, are computed once more from the layer's own queries and keys.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.condition.text import Encoder, tokenize, transformers
from sfumato.denoiser.denoiser import Denoiser
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.layers import TransformerBlock
from sfumato.runtime import atomic
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import opened
from sfumato.tasks.create.run import Made, SamplerProgress, walk
from sfumato.types import Condition, Step

SCHEMA = "sfumato.trace/1"
FINEST = 16  # side, at most, of the maps of attention
APART = 28 * 28  # places of the latents, up to which heads are told apart


@dataclass(frozen=True)
class Word:
    """A token of the prompt as the model sees it.

    Attributes
    ----------
    id : int
    piece : str
        Its text; a piece that the word goes on behind ends with a hyphen.
    weight : float
        As brackets in the prompt set it.
    place : int
        Its row among the text states.
    """

    id: int
    piece: str
    weight: float
    place: int


@dataclass(frozen=True)
class StepTrace:
    """One sampler step from inside. Tensors are (C, h, w), float32, on the CPU.

    Attributes
    ----------
    index : int
    sigma : float
        Noise level at its start.
    seconds : float
        Of its evaluations and of what the sampler does with them.
    x, after : Tensor
        The noisy latents before and after it.
    positive, negative : Tensor
        The clean latents as the network expects them with the prompt, and with the negative prompt
        (or none); without guidance the second is not computed, and None.
    denoised : Tensor
        What the sampler was told: both under guidance, made to agree with what is known of the
        picture.
    attention : Tensor, (L, T + 1, a, b)
        For each layer that attends to the text: how much each place of the picture looks at each
        token, in the mean over heads. The last row of tokens is all that fills up behind the
        prompt; over all rows the sum is 1. Empty for a model without text.
    heads : Tensor, (L, H, T + 1, a, b)
        The same of each head. Empty for large pictures, and if layers have one head or different
        numbers of heads.
    """

    index: int
    sigma: float
    seconds: float
    x: Tensor
    after: Tensor
    positive: Tensor
    negative: Tensor | None
    denoised: Tensor
    attention: Tensor
    heads: Tensor

    def noise(self, estimate: Tensor) -> Tensor:
        """The noise that an estimate of the clean latents takes `x` to hold, of deviation 1: ``(x -
        estimate) / sigma``.
        """
        return (self.x - estimate) / self.sigma

    @property
    def guidance_cosine(self) -> float:
        """Cosine between the noises seen with the prompt and without; 1 where the text says nothing
        new.
        """
        if self.negative is None:
            return 1.0
        return float(
            F.cosine_similarity(
                self.noise(self.positive).flatten(), self.noise(self.negative).flatten(), dim=0
            )
        )

    @property
    def change(self) -> float:
        """Root mean square of what the prompt changes in the clean latents that the network
        expects; 0 without guidance.
        """
        return (
            0.0
            if self.negative is None
            else float((self.positive - self.negative).square().mean().sqrt())
        )


@dataclass(frozen=True)
class Trace:
    """A finished picture and how it came about.

    Attributes
    ----------
    made : Made
        The picture and its settings.
    words : tuple of Word
        Of the prompt with the words of its style; those that did not fit in are ``made.cut``.
    layers : tuple of str
        That attend to the text, with their size.
    steps : tuple of StepTrace
        One per step.
    """

    made: Made
    words: tuple[Word, ...]
    layers: tuple[str, ...]
    steps: tuple[StepTrace, ...]

    @property
    def scale(self) -> float:
        """Of guidance."""
        return float(self.made.settings["guidance_scale"])

    def record(self) -> dict[str, Any]:
        """All that is not a tensor, for JSON."""
        steps = [
            {
                "index": k.index,
                "sigma": k.sigma,
                "seconds": round(k.seconds, 5),
                "guidance_cosine": round(k.guidance_cosine, 6),
            }
            for k in self.steps
        ]
        said = {
            "words": [w.__dict__ for w in self.words],
            "cut": self.made.cut,
            "layers": list(self.layers),
        }
        return {"schema": SCHEMA, "settings": self.made.settings, **said, "steps": steps}

    def tensors(self) -> dict[str, Tensor]:
        """All steps of each tensor stacked, (S, ...)."""
        names = (
            "x",
            "after",
            "positive",
            "denoised",
            "attention",
            *(("heads",) if self.steps[0].heads.numel() else ()),
            *(("negative",) if self.steps[0].negative is not None else ()),
        )
        return {name: torch.stack([getattr(step, name) for step in self.steps]) for name in names}

    def save(self, folder: Path) -> None:
        """Write ``trace.json``, ``trace.safetensors`` and ``picture.png``, the file that `sfumato
        create` would write.
        """
        with atomic(folder / "trace.safetensors") as scratch:
            save_file({k: v.contiguous() for k, v in self.tensors().items()}, scratch)
        self.made.save(folder / "picture.png")
        with atomic(folder / "trace.json") as scratch:
            scratch.write_text(json.dumps(self.record(), indent=2), "utf-8")


def trace(prompt: str, options: CreateOptions | None = None, model: Model | None = None) -> Trace:
    """Make one picture and tell how it came about.

    Parameters
    ----------
    prompt : str
    options : CreateOptions, optional
        For one picture; of several tries the one that is kept is told.
    model : Model, optional
        A loaded model; otherwise ``options.model`` is loaded.

    Raises
    ------
    OptionError
        For more than one picture, and as :func:`sfumato.create`.

    Examples
    --------
    >>> told = trace("a red apple", CreateOptions(seed=7, steps=2, best_of=1))
    >>> [w.piece for w in told.words][:4], len(told.steps), told.steps[0].x.shape
    (['<start>', 'a', 'red', 'apple'], 2, torch.Size([16, 8, 8]))
    """
    *_, last = record(prompt, options, model)
    assert isinstance(last, Trace)
    return last


def record(
    prompt: str, options: CreateOptions | None = None, model: Model | None = None
) -> Iterator[SamplerProgress | Trace]:
    """As :func:`trace`, and yield every sampler step on the way; to cancel, stop iterating."""
    options = options or CreateOptions()
    if options.count != 1:
        raise OptionError(f"one picture can be explained at once, not {options.count}")
    model = model or opened(options)
    batches: dict[int, list[tuple[Step, _Pass, float]]] = defaultdict(list)
    recorder = _Recorder(model).eval()
    for event in walk(prompt, options, replace(model, denoiser=recorder)):
        if isinstance(event, SamplerProgress):
            batches[event.done].append((event.step, *recorder.taken(len(event.step.x))))
            yield event
        elif isinstance(event, Made):
            yield _trace(event, options, model, batches)


def words(encoder: Encoder, prompt: str) -> list[Word]:
    """The tokens of a prompt that the model sees, with begin and end; of two text transformers
    those of the first. None without text.
    """
    found = transformers(encoder)
    if not found:
        return []
    tokenizer, tokens = found[0].tokenizer, tokenize(found[0].tokenizer, prompt)
    marks = {tokenizer.begin: "<start>", tokenizer.end: "<end>"}
    out = []
    for k, (ids, weights) in enumerate(zip(tokens.chunks, tokens.weights, strict=True)):
        for j, (id_, weight) in enumerate(
            zip([tokenizer.begin, *ids, tokenizer.end], [1.0, *weights, 1.0], strict=True)
        ):
            out.append(
                Word(id_, marks.get(id_) or tokenizer.piece(id_), weight, k * tokenizer.length + j)
            )
    return out


@dataclass(frozen=True)
class _Pass:
    """One evaluation of the denoiser for a batch, with guidance the text's half first; and how the
    text's rows look at tokens.
    """

    x: Tensor
    out: Tensor
    maps: list[Tensor]  # of each layer: (B, H, T, a, b); heads that are not told apart are one


class _Recorder(Denoiser):
    """A model's denoiser that keeps what enters and leaves it; the network is shared, and is not
    changed.
    """

    def __init__(self, model: Model) -> None:
        told = model.denoiser
        super().__init__(told.network, told.kind, told.times, told.sigma_data)
        self.heads = [block.attn2.heads for block in _attending(model.network).values()]
        # since the last step: in, out, queries and keys
        self.first: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]] | None = None
        self.begun: float | None = None

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """What the denoiser gives, kept if it is the first of a step."""
        self.begun = self.begun or time.perf_counter()
        asked: list[tuple[Tensor, Tensor]] = []
        out = super().forward(x, sigma, replace(condition, watch=lambda q, k: asked.append((q, k))))
        self.first = self.first or (x, out, asked)
        return out

    def taken(self, batch: int) -> tuple[_Pass, float]:
        """The evaluation that the last step of `batch` pictures started with, and the seconds
        since; forgets it.
        """
        assert self.first is not None and self.begun is not None
        seconds, (x, out, asked) = time.perf_counter() - self.begun, self.first
        maps, apart = [], len(set(self.heads)) == 1 and x[0, 0].numel() <= APART
        for heads, pair in zip(self.heads, asked, strict=True):
            q, k = (t[:batch].unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in pair)
            weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
            weights = weights if apart else weights.mean(dim=1, keepdim=True)
            maps.append(_small(weights.flatten(0, 1), x).unflatten(0, weights.shape[:2]))
        self.first = self.begun = None
        return _Pass(x.float().cpu(), out.float().cpu(), maps), seconds


def _attending(network: nn.Module) -> dict[str, TransformerBlock]:
    """The blocks of a U-Net that attend to the text, in the order of the walk through it."""
    found = {name: m for name, m in network.named_modules() if isinstance(m, TransformerBlock)}
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return dict(sorted(found.items(), key=lambda item: order[item[0].split(".")[0]]))


def _halved(count: int, x: Tensor) -> tuple[int, int]:
    """Height and width of a level of the U-Net that has `count` places, where the latents are
    `x`.
    """
    tall, wide = int(x.shape[-2]), int(x.shape[-1])
    while tall * wide > count:
        tall, wide = -(-tall // 2), -(-wide // 2)
    return tall, wide


def _small(weights: Tensor, x: Tensor) -> Tensor:
    """Attention (rows, places, T) as maps (rows, T, a, b), all layers of the same size; sums over T
    stay.
    """
    tall, wide = _halved(weights.shape[1], x)
    size = x.shape[-2:]
    while max(size) > FINEST:
        size = torch.Size(-(-n // 2) for n in size)
    maps = weights.transpose(1, 2).unflatten(2, (tall, wide))
    return F.interpolate(maps, size=size, mode="area" if tall > size[0] else "nearest").cpu()


def _trace(
    made: Made,
    options: CreateOptions,
    model: Model,
    batches: dict[int, list[tuple[Step, _Pass, float]]],
) -> Trace:
    """What was recorded of the try that was kept."""
    said = words(model.text, made.settings["styled"])
    done, row = divmod(
        int(made.settings["candidate"]) if options.candidate is None else 0, options.batch
    )
    steps = [
        _step(step, seen, seconds, row, [w.place for w in said])
        for step, seen, seconds in batches[done]
    ]
    factor, (wide, tall) = model.space.config.factor, made.settings["size"]
    layers = [
        _label(name, model, tall // factor, wide // factor) for name in _attending(model.network)
    ]
    return Trace(made, tuple(said), tuple(layers), tuple(steps))


def _step(step: Step, seen: _Pass, seconds: float, row: int, places: list[int]) -> StepTrace:
    batch = len(step.x)
    negative = seen.out[batch + row].clone() if len(seen.x) == 2 * batch else None
    attention, heads = torch.zeros(0, 0, 1, 1), torch.zeros(0, 0, 0, 1, 1)
    if seen.maps:
        maps = torch.stack([m[row] for m in seen.maps])
        rest = [k for k in range(maps.shape[2]) if k not in places]
        behind = maps[:, :, rest].sum(dim=2, keepdim=True)
        heads = torch.cat([maps[:, :, places], behind], dim=2)
        attention = heads.mean(dim=1)
        heads = heads if heads.shape[1] > 1 else heads[:0]
    x, after, positive, denoised = seen.x[row], step.x[row], seen.out[row], step.denoised[row]
    x, after, positive, denoised = (t.float().cpu().clone() for t in (x, after, positive, denoised))
    parts = x, after, positive, negative, denoised, attention, heads
    return StepTrace(step.index, step.sigma, seconds, *parts)


def _label(name: str, model: Model, tall: int, wide: int) -> str:
    """A layer's name for people: which way, level, attention (and block, where it has several), and
    at which size.
    """
    way, levels, numbers = (
        name.split("_")[0],
        len(model.network.config.block_out_channels) - 1,
        [int(n) for n in name.split(".") if n.isdigit()],
    )
    level = levels if way == "mid" else numbers[0] if way == "down" else levels - numbers[0]
    for _ in range(level):
        tall, wide = -(-tall // 2), -(-wide // 2)
    shown = numbers if model.network.config.depth(level) > 1 else numbers[:-1]
    return f"{' '.join([way, '.'.join(str(n + 1) for n in shown)])}, {wide}x{tall}"
