"""The training loop: a generator of :class:`TrainProgress` that can be killed and resumed.

All random numbers of step s come from generators keyed by (seed, s). A checkpoint therefore holds
only weights, averages, optimizer states and the step number, and a resumed run equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Generator, Tensor, nn

from sfumato.errors import TrainingError
from sfumato.runtime import (
    atomic,
    autocast,
    choose_device,
    choose_dtype,
    generator,
    keep_memory,
)
from sfumato.train import checkpoint
from sfumato.train.settings import TrainSettings

SAVE_SECONDS = 300.0  # longest time between two checkpoints, whatever the number of steps
# loss scale: without it, gradients of activations would underflow in float16 (Micikevicius et al.
# 2018, section 3.2)
FLOAT16_SCALE = 1024.0
READ_EVERY = 50  # steps between two reads of the loss on a GPU, which waits for each read


class Job(Protocol):
    """A training task: a module and its loss on a batch of rows."""

    weights: Tensor  # (N,) sampling weight of each row

    @property
    def module(self) -> nn.Module:
        """The module that is trained."""
        ...

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss over the rows (indices into the data), all randomness from `random`."""
        ...

    def preview(self) -> Image.Image | None:
        """Return a preview picture, if there is one; the module holds the averaged weights."""
        ...


@dataclass(frozen=True)
class TrainProgress:
    """Progress after one training step.

    Attributes
    ----------
    step, steps : int
        Steps done, and steps in total.
    loss : float
        Moving average of the loss.
    samples_per_second : float
        Samples per second over the last steps.
    seconds_left : float
    preview : Path or None
        The preview just written.
    """

    step: int
    steps: int
    loss: float
    samples_per_second: float
    seconds_left: float
    preview: Path | None = None


def _saved(picture: Image.Image | None, path: Path) -> Path | None:
    if picture is None:
        return None
    with atomic(path) as scratch:
        picture.save(scratch, "PNG")
    return path


def train(
    job: Job,
    settings: TrainSettings,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Iterator[TrainProgress]:
    """Train up to ``settings.steps``, resuming from the checkpoint in `folder` if there is one.

    Without a folder, nothing is written. `about` describes everything that the run depends on
    besides `settings` (network, data, corruption); a checkpoint of a different run raises an error.
    The averaged weights are in ``job.module`` when the generator is exhausted. To stop early, stop
    iterating: a checkpoint is written when the generator closes.

    Raises
    ------
    TrainingError
        If all sampling weights are 0; if the checkpoint belongs to another run; or if a gradient is
        not finite. On a CPU, the message then names the step and the first layer at fault. A GPU
        checks only every 50 steps, so the message names the step of the check.
    """
    device = _place(job, settings)
    state = checkpoint.State.start(job.module, settings)
    step = checkpoint.resume(state, folder, settings, about or {}) if folder else 0
    saved, whole, since = step, True, time.monotonic()  # whole: not in the middle of a step
    if step >= settings.steps:
        state.use_average()
        return
    meter, places = _Meter(settings, step), job.weights.double().cumsum(0)
    if not len(places) or not 0 < places[-1] < math.inf:
        raise TrainingError("all sampling weights are 0, or their sum is too large")
    watch = _Watch(settings, 1 if device.type == "cpu" else READ_EVERY)
    try:
        while step < settings.steps:
            watch.see(*_gradient(job, settings, step, device, places))
            whole = False
            _apply(state, settings, step)
            step, whole = step + 1, True
            last, late = step == settings.steps, time.monotonic() - since > SAVE_SECONDS
            shows = last or step % settings.preview_every == 0
            saves = last or late or step % settings.checkpoint_every == 0
            watch.look(step, now=shows or saves)
            preview = None
            if folder and shows:
                with state.averaged():
                    picture = job.preview()
                preview = _saved(picture, folder / "previews" / f"{step:07d}.png")
            if folder and saves:
                checkpoint.save(state, folder, settings, step, about or {})
                saved, since = step, time.monotonic()
            yield meter.read(step, watch.loss, preview)
    # a run resumed from these weights would fail again: the previous checkpoint stays
    except TrainingError:
        whole = False
        raise
    finally:
        if folder and whole and step > saved and watch.is_finite:
            checkpoint.save(state, folder, settings, step, about or {})
    state.use_average()


def _place(job: Job, settings: TrainSettings) -> torch.device:
    """Move the module to the device of the settings."""
    keep_memory()
    device = choose_device(settings.device)
    job.module.to(device).train()
    if settings.compile:
        job.module.compile()
    return device


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step: linear rise, plateau, linear fall (trapezoid).

    A longer run begins with the same learning rates as a shorter run.

    Examples
    --------
    >>> s = TrainSettings(steps=100, learning_rate=1.0, warmup=10, cooldown=0.5)
    >>> [learning_rate(s, k) for k in (0, 9, 49, 75)]
    [0.1, 1.0, 1.0, 0.5]
    """
    up = min(1.0, (step + 1) / max(1, settings.warmup))
    down = (
        1.0
        if not settings.cooldown
        else min(1.0, (settings.steps - step) / (settings.cooldown * settings.steps))
    )
    return settings.learning_rate * min(up, down)


def _gradient(
    job: Job, settings: TrainSettings, step: int, device: torch.device, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Backpropagate the loss of a batch; return the loss and the norm of the gradient."""
    draws = torch.rand(
        settings.batch, generator=generator(settings.seed, step, "rows"), dtype=torch.float64
    )
    # each row owns an interval as long as its weight
    rows = torch.searchsorted(places, draws * places[-1], right=True)
    dtype = choose_dtype(settings.dtype, device)

    def loss_now() -> Tensor:
        with autocast(device, dtype):
            return job.loss(rows, generator(settings.seed, step, "noise"))

    loss = loss_now()
    scale = FLOAT16_SCALE if dtype == torch.float16 else 1.0
    (loss * scale).backward()
    gradients = [p.grad for p in job.module.parameters() if p.grad is not None]
    if scale != 1:
        torch._foreach_div_(gradients, scale)
    norm = nn.utils.get_total_norm(gradients)
    if device.type == "cpu" and not math.isfinite(float(norm)):
        raise TrainingError(
            f"step {step + 1}: {_blame(job.module, loss_now)}; lower the learning rate "
            f"({settings.learning_rate:g})"
        )
    if device.type != "cpu" or norm > settings.max_grad_norm:
        nn.utils.clip_grads_with_norm_(job.module.parameters(), settings.max_grad_norm, norm)
    return loss.detach(), norm


def _apply(state: checkpoint.State, settings: TrainSettings, step: int) -> None:
    """Take an optimizer step and update the averaged weights."""
    state.step(learning_rate(settings, step))
    state.update_average(min(settings.ema_decay, (step + 1) / (step + 10)))


def _blame(module: nn.Module, again: object) -> str:
    """Run the batch again and name the first layer whose output is not finite.

    If there is none, name the first gradient that is not finite.
    """
    found: list[str] = []
    hooks = []
    for name, layer in module.named_modules():

        def watch(_: nn.Module, __: object, out: object, name: str = name) -> None:
            if isinstance(out, Tensor) and not out.isfinite().all():
                found.append(name)

        hooks.append(layer.register_forward_hook(watch))
    with torch.no_grad():
        again()  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    if found:
        return f"the output of layer {found[0] or 'the network'} is not finite"
    bad = (
        n
        for n, p in module.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    )
    return f"the gradient of {next(bad, 'the loss')} is not finite"


class _Watch:
    """Reads the loss, and whether all gradients were finite, every few steps.

    A GPU runs behind the program: it must finish all queued work before the program can read a
    number.
    """

    def __init__(self, settings: TrainSettings, every: int) -> None:
        self.settings, self.every, self.loss = settings, every, math.nan
        self.seen = self.norms = torch.zeros(())

    def see(self, loss: Tensor, norm: Tensor) -> None:
        """Store a step's loss, and add its gradient norm to a sum.

        The sum is finite only if all norms are.
        """
        self.seen, self.norms = loss, self.norms.to(norm) + norm

    @property
    def is_finite(self) -> bool:
        """Whether all gradients so far were finite."""
        return math.isfinite(float(self.norms))

    def look(self, step: int, *, now: bool) -> None:
        """Check the stored gradient norms and read the stored loss, every few steps or if `now`.

        Raises
        ------
        TrainingError
            If a gradient was not finite.
        """
        if not now and step % self.every and not math.isnan(self.loss):
            return
        if not self.is_finite:
            raise TrainingError(
                f"before step {step}: the gradient is not finite; lower the learning rate "
                f"({self.settings.learning_rate:g})"
            )
        self.loss, self.norms = float(self.seen), torch.zeros(())


class _Meter:
    """Smooths the loss, and measures the speed over the last steps."""

    def __init__(self, settings: TrainSettings, step: int) -> None:
        self.settings, self.loss = settings, math.nan
        self.marks = [(step, time.perf_counter())]

    def read(self, step: int, loss: float, preview: Path | None) -> TrainProgress:
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
        self.marks = [*self.marks[-49:], (step, time.perf_counter())]
        (first, start), (last, end) = self.marks[0], self.marks[-1]
        rate = (last - first) * self.settings.batch / max(1e-9, end - start)
        left = (self.settings.steps - step) * self.settings.batch / max(1e-9, rate)
        return TrainProgress(step, self.settings.steps, self.loss, rate, left, preview)
