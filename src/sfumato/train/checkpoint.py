"""Checkpoints of training runs: written atomically and restored bit for bit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sfumato.errors import TrainingError
from sfumato.hub.files import CHECKPOINT
from sfumato.runtime import atomic, choose_dtype, remove_scratch
from sfumato.train.muon import Muon, matrix_weights
from sfumato.train.settings import TrainSettings

# Settings that may change when a run is resumed; another device rounds differently.
FREE = frozenset({"device", "dtype", "compile", "checkpoint_every", "preview_every"})
REMEMBERED: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum",),
}


@dataclass
class State:
    """Weights, their moving average, and the states of the optimizers."""

    module: nn.Module
    average: list[Tensor]  # empty if weights are not averaged
    optimizers: list[torch.optim.Optimizer]

    @classmethod
    def start(cls, module: nn.Module, settings: TrainSettings) -> State:
        """A fresh state; weight decay applies to matrices and kernels, not to biases and norms."""
        trained = [p for p in module.parameters() if p.requires_grad]
        decay = settings.weight_decay
        ours = matrix_weights(module) if settings.optimizer == "muon" else []
        rest = [p for p in trained if not any(p is q for q in ours)]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        optimizers: list[torch.optim.Optimizer] = (
            [torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)] if groups else []
        )
        if ours:
            half = choose_dtype(settings.dtype, ours[0].device) == torch.bfloat16
            # the range of float16 is too small for Muon's sums
            optimizers.append(Muon(ours, decay, dtype=torch.bfloat16 if half else torch.float32))
        return cls(
            module, [p.detach().clone() for p in trained] if settings.ema_decay else [], optimizers
        )

    def step(self, rate: float) -> None:
        """Take an optimizer step with learning rate `rate`, and clear the gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @property
    def names(self) -> list[str]:
        """Names of the trained parameters, in order."""
        return [n for n, p in self.module.named_parameters() if p.requires_grad]

    @property
    def trained(self) -> list[Tensor]:
        """The trained parameters, in order."""
        return [p.data for p in self.module.parameters() if p.requires_grad]

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights."""
        if self.average:
            get_ema_multi_avg_fn(decay)(self.average, self.trained, None)

    def use_average(self) -> None:
        """Replace each weight of the module by its moving average over the training steps."""
        if self.average:
            torch._foreach_copy_(self.trained, self.average)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights and evaluation mode within a ``with`` block."""
        kept = [p.clone() for p in self.trained]
        self.use_average()
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            torch._foreach_copy_(self.trained, kept)
            self.module.train()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by name."""
        out = {
            f"average.{name}": mean for name, mean in zip(self.names, self.average, strict=False)
        }
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        for name, parameter in zip(self.names, parameters, strict=True):
            out[f"weights.{name}"] = parameter.data
            for optimizer in self.optimizers:
                out |= {
                    f"{key}.{name}": value
                    for key, value in optimizer.state.get(parameter, {}).items()
                }
        return out


def save(
    state: State, folder: Path, settings: TrainSettings, step: int, about: Mapping[str, Any]
) -> None:
    """Write the checkpoint atomically: the previous one stays until this one is complete."""
    with atomic(folder / CHECKPOINT) as scratch:
        tensors = {k: t.contiguous() for k, t in state.tensors().items()}
        save_file(
            tensors, scratch, {"step": str(step), "settings": _key(settings), "about": _text(about)}
        )


def resume(state: State, folder: Path, settings: TrainSettings, about: Mapping[str, Any]) -> int:
    """Fill `state` from the folder's checkpoint and return its step; 0 without a checkpoint.

    Raises
    ------
    TrainingError
        If the checkpoint belongs to other settings, other data or another network, or cannot be
        read.
    """
    remove_scratch(folder)
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as f:
            notes = f.metadata() or {}
            if notes.get("settings") != _key(settings):
                other = _other(json.loads(notes.get("settings", "{}")), json.loads(_key(settings)))
                raise TrainingError(
                    f"{path} was written with other settings: {other}; use the same settings again "
                    "or give another --output"
                )
            if other := _other(json.loads(notes.get("about", "{}")), json.loads(_text(about))):
                raise TrainingError(
                    f"{path} belongs to another run: {other}; give another --output"
                )
            _fill(state, {k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise TrainingError(f"{path} cannot be read ({error}); remove it to start anew") from None
    return int(notes["step"])


def _fill(state: State, tensors: dict[str, Tensor]) -> None:
    parameters = [p for p in state.module.parameters() if p.requires_grad]
    for name, parameter in zip(state.names, parameters, strict=True):
        if tensors.get(f"weights.{name}", parameter.new_zeros(0)).shape != parameter.shape:
            raise TrainingError(
                f"the checkpoint has no {name} of shape {tuple(parameter.shape)}: it belongs to "
                "another network"
            )
        parameter.data.copy_(tensors[f"weights.{name}"])
        for optimizer, keys in ((o, REMEMBERED[type(o)]) for o in state.optimizers):
            kept = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
            if kept:
                # fused optimizers need the step count on the parameter's device, too
                optimizer.state[parameter] = {k: _laid_out(t, parameter) for k, t in kept.items()}
    for name, mean in zip(state.names, state.average, strict=False):
        mean.copy_(tensors[f"average.{name}"])


def _laid_out(kept: Tensor, parameter: Tensor) -> Tensor:
    """Copy a tensor to its parameter's device.

    If the shapes agree, the copy also gets the parameter's memory layout: fused optimizers traverse
    a parameter and its state in memory order, which may be channels last.
    """
    return (
        torch.empty_like(parameter).copy_(kept)
        if kept.shape == parameter.shape
        else kept.to(parameter.device)
    )


def _other(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the difference between two runs; empty if there is none."""
    wrong = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not wrong:
        return ""
    if "data" in wrong:
        return "its data were different"
    key = wrong[0]
    old, new = then.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):  # such as a network's config
        return _other(old, new).replace("its ", f"its {key}.", 1)
    return f"its {key} was {str(old)[:80]}, now it is {str(new)[:80]}"


def _text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, default=str)


def _key(settings: TrainSettings) -> str:
    return json.dumps(settings.model_dump(exclude=set(FREE)), sort_keys=True)
