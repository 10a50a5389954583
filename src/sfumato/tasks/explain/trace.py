"""Trace how a model generates a picture.

A separate denoiser, which shares the model's network, records the sampling run of
:func:`sfumato.tasks.create.run.stream`. The picture is the same as without a trace, and other runs
of the model are not recorded. Attention weights, which fused kernels do not return, are computed
again from the layers' queries and keys.
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
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.run import Made, SamplerProgress, stream
from sfumato.types import Condition, Step

SCHEMA = "sfumato.trace/1"
FINEST = 16  # largest side of attention maps
APART = 28 * 28  # largest number of latent positions for which each head has its own map


@dataclass(frozen=True)
class Word:
    """A token of the prompt as the model sees it.

    Attributes
    ----------
    id : int
    piece : str
        Text of the token; it ends with a hyphen if the word continues.
    weight : float
        Weight of the token, which brackets in the prompt can change.
    place : int
        Index of the token in the text encoder's hidden states.
    """

    id: int
    piece: str
    weight: float
    place: int


@dataclass(frozen=True, eq=False)
class StepTrace:
    """Record of one sampler step.

    Tensors are float32 and on the CPU, with the shape (C, h, w) unless stated otherwise.

    Attributes
    ----------
    index : int
    sigma : float
        Noise level at the start of the step.
    seconds : float
        Duration of the step.
    x, after : Tensor
        Noisy latents before and after the step.
    positive, negative : Tensor
        Denoised estimates with the prompt, and with the negative prompt (or an empty one);
        `negative` is None without guidance.
    denoised : Tensor
        Estimate that the sampler used: `positive` and `negative` combined by guidance, and made
        consistent with the known part of the picture.
    attention : Tensor, (L, T + 1, a, b)
        Attention weights, averaged over heads, of a x b positions to T tokens, in each of the L
        layers that attend to the text. The last of the T + 1 maps is the map of all padding tokens.
        At each position, the maps add up to 1. Empty for a model without text.
    heads : Tensor, (L, H, T + 1, a, b)
        Attention weights of each head. Empty for large pictures, and if layers have one head or
        different numbers of heads.
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
        """Noise that an estimate of the clean latents implies in `x`: ``(x - estimate) / sigma``.

        The division by sigma makes its standard deviation about 1.
        """
        return (self.x - estimate) / self.sigma

    @property
    def guidance_cosine(self) -> float:
        """Cosine between the noise estimates with the prompt and with the negative prompt.

        It is 1 without guidance.
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
        """Root mean square difference between the estimates with prompt and negative prompt.

        It is 0 without guidance.
        """
        return (
            0.0
            if self.negative is None
            else float((self.positive - self.negative).square().mean().sqrt())
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """A generated picture and the record of its sampling run.

    Attributes
    ----------
    made : Made
        The picture and its settings.
    words : tuple of Word
        Tokens of the prompt and its style; ``made.cut`` is the rest of a prompt that is too long.
    layers : tuple of str
        Names of the layers that attend to the text; a name includes the width and height of the
        layer's features.
    steps : tuple of StepTrace
        One per step.
    """

    made: Made
    words: tuple[Word, ...]
    layers: tuple[str, ...]
    steps: tuple[StepTrace, ...]

    @property
    def scale(self) -> float:
        """The guidance scale."""
        return float(self.made.settings["guidance_scale"])

    def record(self) -> dict[str, Any]:
        """Everything except the tensors, for JSON."""
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
        """The tensors of a step by name, each stacked over all S steps: (S, ...)."""
        names = (
            "x",
            "after",
            "positive",
            "denoised",
            "attention",
            *(("heads",) if self.steps[0].heads.numel() else ()),
            *(("negative",) if all(s.negative is not None for s in self.steps) else ()),
        )
        return {name: torch.stack([getattr(step, name) for step in self.steps]) for name in names}

    def save(self, folder: Path) -> None:
        """Write ``trace.json``, ``trace.safetensors`` and ``picture.png``.

        The picture is the file that `sfumato create` would write.
        """
        with atomic(folder / "trace.safetensors") as scratch:
            save_file({k: v.contiguous() for k, v in self.tensors().items()}, scratch)
        self.made.save(folder / "picture.png")
        with atomic(folder / "trace.json") as scratch:
            scratch.write_text(json.dumps(self.record(), indent=2), "utf-8")


def trace(prompt: str, options: CreateOptions | None = None, model: Model | None = None) -> Trace:
    """Generate one picture and record its sampling run.

    Parameters
    ----------
    prompt : str
    options : CreateOptions, optional
        Options for one picture. With several candidates, the candidate that is kept is traced.
    model : Model, optional
        A loaded model; otherwise ``options.model`` is loaded.

    Raises
    ------
    OptionError
        For more than one picture, and in the same cases as :func:`sfumato.create`.

    Examples
    --------
    >>> found = trace("a red apple", CreateOptions(seed=7, steps=2, best_of=1))
    >>> [w.piece for w in found.words][:4], len(found.steps), found.steps[0].x.shape
    (['<start>', 'a', 'red', 'apple'], 2, torch.Size([16, 8, 8]))
    """
    *_, last = record(prompt, options, model)
    assert isinstance(last, Trace)
    return last


def record(
    prompt: str, options: CreateOptions | None = None, model: Model | None = None
) -> Iterator[SamplerProgress | Trace]:
    """As :func:`trace`, but also yield every sampler step; to cancel, stop iterating."""
    options = CreateOptions.of(options)
    if options.count != 1:
        raise OptionError(f"only one picture can be explained at a time, not {options.count}")
    model = model or load_model(options)
    batches: dict[int, list[tuple[Step, _Pass, float]]] = defaultdict(list)
    recorder = _Recorder(model).eval()
    for event in stream(prompt, options, replace(model, denoiser=recorder)):
        if isinstance(event, SamplerProgress):
            batches[event.done].append((event.step, *recorder.taken(len(event.step.x))))
            yield event
        elif isinstance(event, Made):
            yield _trace(event, options, model, batches)


def words(encoder: Encoder, prompt: str) -> list[Word]:
    """Tokens of a prompt in the (first) text transformer, with start and end tokens.

    Empty for a model without text.
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
    """One evaluation of the denoiser for a batch. With guidance, the rows of prompts come first,
    and the rows of negative prompts follow.
    """

    x: Tensor
    out: Tensor
    # of the prompts, per layer: (B, H, T, a, b) for H heads (1 if they are averaged), T tokens and
    # maps of a x b positions
    maps: list[Tensor]


class _Recorder(Denoiser):
    """A denoiser that shares a model's network, and records its inputs and outputs."""

    def __init__(self, model: Model) -> None:
        wrapped = model.denoiser
        super().__init__(wrapped.network, wrapped.kind, wrapped.times, wrapped.sigma_data)
        self.heads = [block.attn2.heads for block in _attending(model.network).values()]
        # first evaluation since the last step: input, output, queries and keys
        self.first: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]] | None = None
        self.started: float | None = None

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Evaluate the denoiser; the first evaluation of a step is recorded."""
        self.started = self.started or time.perf_counter()
        asked: list[tuple[Tensor, Tensor]] = []
        out = super().forward(x, sigma, replace(condition, watch=lambda q, k: asked.append((q, k))))
        self.first = self.first or (x, out, asked)
        return out

    def taken(self, batch: int) -> tuple[_Pass, float]:
        """Return what was recorded at the first network evaluation of the last step, and the
        seconds since this evaluation began.

        Also reset the record. `batch` is the number of pictures.
        """
        assert self.first is not None and self.started is not None
        seconds, (x, out, asked) = time.perf_counter() - self.started, self.first
        maps, apart = [], len(set(self.heads)) == 1 and x[0, 0].numel() <= APART
        for heads, pair in zip(self.heads, asked, strict=True):
            q, k = (t[:batch].unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in pair)
            weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
            weights = weights if apart else weights.mean(dim=1, keepdim=True)
            maps.append(_small(weights.flatten(0, 1), x).unflatten(0, weights.shape[:2]))
        self.first = self.started = None
        return _Pass(x.float().cpu(), out.float().cpu(), maps), seconds


def _attending(network: nn.Module) -> dict[str, TransformerBlock]:
    """The blocks of a U-Net that attend to the text, in the order of execution."""
    found = {name: m for name, m in network.named_modules() if isinstance(m, TransformerBlock)}
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return dict(sorted(found.items(), key=lambda item: order[item[0].split(".")[0]]))


def _halved(count: int, x: Tensor) -> tuple[int, int]:
    """Height and width of the U-Net's level that has `count` positions for latents `x`."""
    tall, wide = int(x.shape[-2]), int(x.shape[-1])
    while tall * wide > count:
        tall, wide = -(-tall // 2), -(-wide // 2)
    return tall, wide


def _small(weights: Tensor, x: Tensor) -> Tensor:
    """Convert attention (rows, positions, T) to maps (rows, T, a, b).

    The maps have the same size for all layers, and their sums over T stay unchanged.
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
    """The trace of the candidate that was kept."""
    said = words(model.text, made.settings["styled"])
    kept = int(made.settings["candidate"]) if options.candidate is None else 0
    done, row = divmod(kept, options.batch)
    places = [word.place for word in said]
    steps = [_step(*recorded, row, places) for recorded in batches[done]]
    tall, wide = steps[0].x.shape[1:]
    layers = [_label(name, model, tall, wide) for name in _attending(model.network)]
    return Trace(made, tuple(said), tuple(layers), tuple(steps))


def _step(step: Step, seen: _Pass, seconds: float, row: int, places: list[int]) -> StepTrace:
    batch = len(step.x)
    negative = seen.out[batch + row].clone() if len(seen.x) == 2 * batch else None
    attention, heads = torch.zeros(0, 0, 1, 1), torch.zeros(0, 0, 0, 1, 1)
    if seen.maps:
        maps = torch.stack([m[row] for m in seen.maps])
        missing = max([maps.shape[2] - 1, *places]) + 1 - maps.shape[2]  # `then` may be shorter
        maps = F.pad(maps, (0, 0, 0, 0, 0, missing))
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
    """Readable name of a layer, such as "down 2.1.1, 16x8".

    The numbers, from 1, are those of the down or up block, the attention module in it, and its
    transformer block (left out if there is only one). The width and height of the features follow.
    """
    way = name.split("_")[0]
    levels = len(model.network.config.block_out_channels) - 1
    numbers = [int(n) for n in name.split(".") if n.isdigit()]
    level = levels if way == "mid" else numbers[0] if way == "down" else levels - numbers[0]
    for _ in range(level):
        tall, wide = -(-tall // 2), -(-wide // 2)
    shown = numbers if model.network.config.depth(level) > 1 else numbers[:-1]
    return f"{' '.join([way, '.'.join(str(n + 1) for n in shown)])}, {wide}x{tall}"
