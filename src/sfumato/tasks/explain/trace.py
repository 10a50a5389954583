"""Trace how a model generates a picture.

The sampling run of :func:`sfumato.tasks.create.run.stream` is recorded
(:mod:`sfumato.tasks.explain.recorder`). The picture is the same as without a trace.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from sfumato.condition.text import Encoder, tokenize, transformers
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.runtime import atomic
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.run import Made, SamplerProgress, stream
from sfumato.tasks.explain.recorder import Pass, Recorder, attending, layer_label
from sfumato.types import Step

SCHEMA = "sfumato.trace/1"


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
        layers that attend to the text. The first maps belong to the tokens of the step's text
        (:meth:`Trace.words_at`), and the last of the T + 1 maps to all padding tokens. Maps between
        them are 0: they are there if another step follows a longer text. At each position, the maps
        add up to 1. Empty for a model without text.
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
    then_words : tuple of Word
        Tokens of the text of ``then`` and its style; empty without ``then``.
    """

    made: Made
    words: tuple[Word, ...]
    layers: tuple[str, ...]
    steps: tuple[StepTrace, ...]
    then_words: tuple[Word, ...] = ()

    def words_at(self, index: int) -> tuple[Word, ...]:
        """Tokens of the text that step `index`, from 0, follows."""
        late = bool(self.then_words) and index + 1 >= self.made.settings["then_step"]
        return self.then_words if late else self.words

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
            "then_words": [w.__dict__ for w in self.then_words],
            "cut": self.made.cut,
            "layers": list(self.layers),
        }
        return {"schema": SCHEMA, "settings": self.made.settings, **said, "steps": steps}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a step by name, each stacked over all S steps: (S, ...).

        If only some steps have guidance, `negative` equals `positive` at the other steps.
        """
        names = ["x", "after", "positive", "denoised", "attention"]
        names += ["heads"] if self.steps[0].heads.numel() else []
        found = {name: torch.stack([getattr(step, name) for step in self.steps]) for name in names}
        if any(step.negative is not None for step in self.steps):
            both = [s.positive if s.negative is None else s.negative for s in self.steps]
            found["negative"] = torch.stack(both)
        return found

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
        For more than one prompt or picture, and in the same cases as :func:`sfumato.create`.

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
    if not isinstance(prompt, str):
        raise OptionError(f"only one prompt can be explained at a time, not {prompt!r:.60}")
    if options.count != 1:
        raise OptionError(f"only one picture can be explained at a time, not {options.count}")
    model = model or load_model(options)
    batches: dict[int, list[tuple[Step, Pass, float]]] = defaultdict(list)
    recorder = Recorder(model).eval()
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


def _trace(
    made: Made,
    options: CreateOptions,
    model: Model,
    batches: dict[int, list[tuple[Step, Pass, float]]],
) -> Trace:
    """The trace of the candidate that was kept."""
    said, then = made.settings["styled"], made.settings.get("then_styled")
    tokens, later = (() if t is None else tuple(words(model.text, t)) for t in (said, then))
    kept = int(made.settings["candidate"]) if options.candidate is None else 0
    done, row = divmod(kept, options.batch)
    _, tall, wide = batches[done][0][0].x.shape[1:]
    layers = [layer_label(name, model, tall, wide) for name in attending(model.network)]
    empty = Trace(made, tokens, tuple(layers), (), later)
    shown = max(len(tokens), len(later))
    steps = []
    for step, seen, seconds in batches[done]:
        heads = torch.zeros(0, 0, 0, 1, 1)
        if seen.maps:
            maps = torch.stack([m[row] for m in seen.maps])
            heads = _maps_of(empty.words_at(step.index), maps, _length(model), shown)
        steps.append(_step(step, seen, seconds, row, heads))
    return replace(empty, steps=tuple(steps))


def _length(model: Model) -> int:
    """Number of tokens in a chunk of text."""
    return transformers(model.text)[0].tokenizer.length


def _maps_of(said: tuple[Word, ...], maps: Tensor, length: int, shown: int) -> Tensor:
    """Maps (L, H, shown + 1, a, b) of the tokens of a text from the maps (L, H, T, a, b) of all
    tokens that the network saw.

    The text takes chunks of `length` tokens. If the negative prompt takes more chunks, guidance
    repeats the text, and the maps of a repeated token are added up.
    """
    count = (max(word.place for word in said) // length + 1) * length
    copies = -(-maps.shape[2] // count)
    maps = F.pad(maps, (0, 0, 0, 0, 0, copies * count - maps.shape[2]))
    maps = maps.unflatten(2, (copies, count)).sum(dim=2)
    places = [word.place for word in said]
    rest = [k for k in range(count) if k not in places]
    own = F.pad(maps[:, :, places], (0, 0, 0, 0, 0, shown - len(places)))
    return torch.cat([own, maps[:, :, rest].sum(dim=2, keepdim=True)], dim=2)


def _step(step: Step, seen: Pass, seconds: float, row: int, heads: Tensor) -> StepTrace:
    batch = len(step.x)
    negative = seen.out[batch + row].clone() if len(seen.x) == 2 * batch else None
    attention = heads.mean(dim=1) if heads.numel() else torch.zeros(0, 0, 1, 1)
    heads = heads if heads.shape[1] > 1 else heads[:0]
    x, after, positive, denoised = seen.x[row], step.x[row], seen.out[row], step.denoised[row]
    x, after, positive, denoised = (t.float().cpu().clone() for t in (x, after, positive, denoised))
    parts = x, after, positive, negative, denoised, attention, heads
    return StepTrace(step.index, step.sigma, seconds, *parts)
