"""LoRA: low-rank updates of a model's layers, in small files (Hu et al. 2021, arXiv:2106.09685).

A layer's weight W becomes ``W + scale (alpha / rank) B A``, where A has few rows and B few columns.
The update is merged once, when a model is loaded, so it costs nothing afterwards. Files may use the
tensor names of diffusers and PEFT (``unet.….lora_A.weight``, ``base_model.model.….lora_A.weight``),
of older diffusers (``.lora.down.weight``, ``.lora_linear_layer.down.weight``) or of kohya
(``lora_unet_….lora_down.weight``). New files get PEFT's names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.condition.text import TextEncoder
from sfumato.denoiser.unet import UNet
from sfumato.errors import ModelError
from sfumato.hub.catalog import described_part
from sfumato.hub.files import CHECKPOINT, PICKLES, read_weights, unfinished
from sfumato.hub.names import unet_name
from sfumato.runtime import atomic

BASE = "base_model"  # first part of the names in PEFT's own folders
# regular expressions of a stranger's file: without groups and with few repetitions they are quick
SIMPLE = re.compile(r"(?:[\w.^$|*]|\\\.)+")
FILE = "pytorch_lora_weights.safetensors"  # the file that diffusers looks for in a folder
FORMAT = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>A|B)|\.lora(?:_linear_layer)?[._](?P<old>down|up))\.weight|"
    r"(?P<scaled>.+)\.alpha"
)


@dataclass(frozen=True, eq=False)
class Change:
    """Low-rank update of one layer.

    Attributes
    ----------
    down : Tensor, (rank, inputs) or (rank, inputs, k, k)
    up : Tensor, (outputs, rank) or (outputs, rank, 1, 1)
    alpha : float
        The product of `up` and `down` is multiplied by ``alpha / rank``.
    """

    down: Tensor
    up: Tensor
    alpha: float

    def fits(self, weight: Tensor) -> bool:
        """Whether the matrices have the outputs and inputs of a weight, and one rank."""
        down, up = self.down.flatten(1), self.up.flatten(1)
        return up.shape == (len(weight), len(down)) and down.shape[1] == weight[0].numel()

    def of(self, weight: Tensor) -> Tensor:
        """Return the update of a weight, in the weight's shape and in float32."""
        rank = self.down.shape[0]
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.alpha / rank) * product.reshape(weight.shape)


def lora_file(path: Path | str) -> Path:
    """Return the file of a LoRA.

    In a folder, this is the file with diffusers' name, or else the only .safetensors file.

    Raises
    ------
    ModelError
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise ModelError(f"{path} is a pickle, which can run code when opened; it is not read")
    if path.is_dir():
        others = sorted(
            p for p in path.glob("*.safetensors") if p.name != CHECKPOINT and p.name[0] != "."
        )
        found = [path / FILE] if (path / FILE).exists() else others
        if not found and (why := unfinished(path) or described_part(path)):
            raise ModelError(why)
        if len(found) != 1:
            raise ModelError(
                f"{path} holds {len(found) or 'no'} .safetensors files; give the file of the LoRA"
            )
        return found[0]
    if not path.is_file():
        raise ModelError(f"there is no LoRA {path}")
    return path


def is_lora(path: Path) -> bool:
    """Whether a path is the file of a LoRA, or a folder with one; the weights are not read."""
    try:
        file = lora_file(path)
        if file.suffix != ".safetensors":
            return False
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
    except (ModelError, SafetensorError, OSError):
        return False
    return bool(names) and all(FORMAT.fullmatch(name) for name in names)


def lora_scale(asked: str) -> tuple[str, float]:
    """Split the name of a LoRA into its path and the scale after the last colon, 1 if absent.

    Examples
    --------
    >>> lora_scale("mine/:0.8"), lora_scale("mine/")
    (('mine/', 0.8), ('mine/', 1.0))
    """
    match = re.fullmatch(r"(.+):(-?\d*\.?\d+)", asked)
    return (match[1], float(match[2])) if match else (asked, 1.0)


def read_lora(path: Path) -> dict[str, Change]:
    """Read the low-rank updates of a file, keyed by the layer names of the file.

    Raises
    ------
    ModelError
        If the file cannot be read, or does not hold a LoRA.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    weights = read_weights(path)
    for name, value in weights.items():
        match = FORMAT.fullmatch(name)
        if match is None:
            raise ModelError(
                f"{path} is no LoRA of a known format: {name} is neither lora_A nor lora_B"
            )
        kind = match["peft"] or {"down": "A", "up": "B"}.get(match["old"] or "", "alpha")
        parts.setdefault(match["layer"] or match["scaled"], {})[kind] = value
    settings = _settings(path)
    changes = {}
    for layer, found in parts.items():
        if not {"A", "B"} <= found.keys():
            raise ModelError(f"{path}: {layer} has only {', '.join(found)}; A and B are needed")
        if found["A"].ndim not in (2, 4) or found["A"].ndim != found["B"].ndim:
            raise ModelError(f"{path}: {layer} is neither two matrices nor two kernels")
        rank = found["A"].shape[0]
        if not rank or ("alpha" in found and found["alpha"].numel() != 1):
            raise ModelError(f"{path}: {layer} has rank 0, or more than one alpha")
        if "alpha" in found:
            alpha = float(found["alpha"])
        else:
            alpha = _alpha(layer, rank, settings.get(layer.split(".")[0], {}))
        changes[layer] = Change(found["A"], found["B"], alpha)
    if not changes:
        raise ModelError(f"{path} holds no weights")
    return changes


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    """Read PEFT's settings of each component: from the file's metadata (keys such as
    ``unet.lora_alpha``), or for a folder of PEFT from ``adapter_config.json`` beside the file.
    """
    beside = path.parent / "adapter_config.json"
    try:
        if beside.is_file():
            found = json.loads(beside.read_text("utf-8"))
            return {BASE: found} if isinstance(found, dict) else {}
        with safe_open(path, "pt") as opened:
            noted = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}
    settings: dict[str, dict[str, Any]] = {}
    for key, value in noted.items() if isinstance(noted, dict) else ():
        component, _, name = key.partition(".")
        settings.setdefault(component, {})[name] = value
    return settings


def _alpha(layer: str, rank: int, settings: Mapping[str, Any]) -> float:
    """Return the alpha of a layer from PEFT's settings, or the rank if the settings have no alpha.

    With ``use_rslora``, PEFT divides by the square root of the rank, not by the rank. The result
    is then multiplied by this root, because :meth:`Change.of` divides by the rank.
    """
    alpha = settings.get("lora_alpha")
    patterns = settings.get("alpha_pattern")
    name = layer.removeprefix(f"{BASE}.model.") if BASE in layer else layer.partition(".")[2]
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if not SIMPLE.fullmatch(pattern) or pattern.count("*") > 3:
                raise re.error("not supported")
            fits = re.match(rf"(?:.*\.)?(?:{pattern})$", name)
        except re.error as error:
            raise ModelError(f"the LoRA's alpha_pattern {pattern!r:.60}: {error}") from None
        if fits:
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return float(rank)
    return alpha * math.sqrt(rank) if settings.get("use_rslora") is True else float(alpha)


def merge(network: UNet, encoders: Sequence[TextEncoder], path: Path, scale: float = 1.0) -> None:
    """Merge a LoRA file into the weights of a model.

    Parameters
    ----------
    network : UNet
    encoders : sequence of TextEncoder
        The weights of `network` and `encoders` are changed in place.
    path : Path
    scale : float
        Scale of the LoRA; 0 changes nothing, and a negative scale subtracts it.

    Raises
    ------
    ModelError
        If the model lacks a layer of the file, or the layer's shapes differ.
    """
    layers = dict(_layers(network, encoders))
    for name, change in read_lora(path).items():
        layer = layers.get(_plain(name))
        if layer is None:
            raise ModelError(f"{path} is for another model: this one has no layer {name}")
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if not change.fits(weight):
            raise ModelError(
                f"{path} is for another model: {name} has {change.up.shape[0]} outputs and "
                f"{tuple(change.down.shape[1:])} inputs; the model's weight: {tuple(weight.shape)}"
            )
        added = change.of(weight)
        if not added.isfinite().all():
            raise ModelError(f"{path}: the update of {name} is not finite")
        weight.data = (weight.float() + scale * added.to(weight.device)).to(weight.dtype)


def _plain(name: str) -> str:
    """Normalize a layer's name to a form that all spellings share."""
    name = re.sub(r"\.processor\.(to_\w+?)(_lora)?$", r".\1", name)
    name = re.sub(rf"^{BASE}\.model\.(?=text_model\.)", "text_encoder.", name)
    name = re.sub(rf"^{BASE}\.model\.", "unet.", name)
    name = re.sub(r"^(text_encoder(?:_2)?)\.encoder\.", r"\1.text_model.encoder.", name)
    return re.sub(r"^lora_te_", "lora_te1_", name).replace(".", "_")


def _layers(network: UNet, encoders: Sequence[TextEncoder]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a model under every spelling of their names."""
    for name, layer in _weighted(network):
        yield f"unet_{name}".replace(".", "_"), layer
        yield f"lora_unet_{name}".replace(".", "_"), layer
        stored = unet_name(f"{name}.weight", network.config).removesuffix(".weight")
        yield f"lora_unet_{stored}".replace(".", "_"), layer
    for k, encoder in enumerate(encoders):
        part = "text_encoder" if k == 0 else f"text_encoder_{k + 1}"
        for name, layer in _weighted(encoder.clip):
            yield f"{part}_{name}".replace(".", "_"), layer
            yield f"lora_te{k + 1}_{name}".replace(".", "_"), layer


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    )


def save_lora(changes: Mapping[str, Change], path: Path) -> None:
    """Write low-rank updates of U-Net layers in float16, with PEFT's names."""
    weights = {}
    for name, change in changes.items():
        scaled = change.up * (change.alpha / change.down.shape[0])
        weights[f"unet.{name}.lora_A.weight"] = change.down.to(torch.float16).contiguous().cpu()
        weights[f"unet.{name}.lora_B.weight"] = scaled.to(torch.float16).contiguous().cpu()
    with atomic(path) as scratch:
        save_file(weights, scratch, {"format": "pt"})
