"""Describe a model without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.hub import single
from sfumato.hub.catalog import model_path, restorer_folder, restorers
from sfumato.hub.config import Defaults, default_side, defaults_of
from sfumato.hub.files import digest, in_pixels, part, read_json, weight_file
from sfumato.hub.load import STUDENT
from sfumato.hub.lora import FILE, is_lora, lora_file, read_lora
from sfumato.space.kl import AutoencoderConfig


def describe(name: str) -> dict[str, Any]:
    """Return a model's picture size, file size, license, styles and digest, read from its files.

    For a LoRA, return its rank and its number of changed layers. For PCA, LSA or an autoencoder,
    return its parameters, and for an index its settings.
    """
    if name in restorers() or (
        (Path(name) / "config.json").exists() and not (Path(name) / "model_index.json").exists()
    ):
        return _network(name, restorer_folder(name) if name in restorers() else Path(name))
    if is_lora(Path(name)):
        return _lora(name, lora_file(name))
    if (Path(name) / "estimator.json").exists():
        return _estimator(name, Path(name))
    if (Path(name) / "index.json").exists():
        return _index(name, Path(name))
    path = model_path(name)
    return _file(name, path) if path.is_file() else _folder(name, path)


def _file(name: str, path: Path) -> dict[str, Any]:
    family, notes = single.identify(path)
    side = default_side(family.unet.sample_size, family.vae.factor)
    defaults = Defaults(
        guidance_scale=family.guidance,
        description=notes.get("modelspec.title", family.name),
        license=notes.get("modelspec.license", ""),
    )
    return _described(
        name,
        defaults,
        side,
        [path],
        f"{family.name}, {family.unet.in_channels} input channels",
        path,
    )


def _folder(name: str, folder: Path) -> dict[str, Any]:
    index = read_json(folder / "model_index.json")
    defaults = defaults_of(folder, index)
    unet = read_json(part(folder, "unet") / "config.json")
    vae = folder / "vae" / "config.json"
    factor = 1 if in_pixels(index) else AutoencoderConfig.read(read_json(vae), str(vae)).factor
    side = default_side(unet.get("sample_size"), factor)
    parts = {
        part(folder, name)
        for name in index
        if name.startswith(("unet", "vae", "text_encoder")) and any(index[name] or ())
    }
    own_parts = (folder / name for name in ("matcher", "upscaler"))
    parts |= {path for path in own_parts if (path / "config.json").exists()}
    weights = [weight_file(p) for p in parts]
    main = weight_file(part(folder, "unet"))
    found = _described(name, defaults, side, weights, index.get("_class_name"), main)
    return found | {"fast": (folder / STUDENT / FILE).exists()}


def _network(name: str, folder: Path) -> dict[str, Any]:
    defaults, weights = defaults_of(folder, {}), weight_file(folder)
    return {
        "name": name,
        "description": defaults.description,
        "license": defaults.license,
        "megabytes": round(weights.stat().st_size / 1e6, 1),
        "network": read_json(folder / "config.json"),
        "sha256": digest(weights),
    }


def _lora(name: str, file: Path) -> dict[str, Any]:
    changes = read_lora(file)
    ranks = {change.down.shape[0] for change in changes.values()}
    return {
        "name": name,
        "kind": "LoRA",
        "layers": len(changes),
        "rank": min(ranks) if len(ranks) == 1 else [min(ranks), max(ranks)],
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "sha256": digest(file),
    }


def _estimator(name: str, folder: Path) -> dict[str, Any]:
    told = {"name": name} | read_json(folder / "estimator.json")
    if (weights := folder / "weights.safetensors").exists():
        told |= {
            "megabytes": round(weights.stat().st_size / 1e6, 1),
            "sha256": digest(weights),
        }
    return told


def _index(name: str, folder: Path) -> dict[str, Any]:
    settings = read_json(folder / "index.json")
    told = {k: v for k, v in settings.items() if k not in ("terms", "weights")}  # long lists
    return (
        {"name": name} | told | {"fitted": _estimator(settings.get("space", ""), folder / "space")}
    )


def _described(
    name: str, defaults: Defaults, side: int, weights: list[Path], pipeline: object, main: Path
) -> dict[str, Any]:
    return {
        "name": name,
        "description": defaults.description,
        "license": defaults.license,
        "size": list(defaults.size or (side, side)),
        "megabytes": round(sum(w.stat().st_size for w in weights) / 1e6, 1),
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "styles": sorted(defaults.styles),
        "pipeline": pipeline,
        "sha256": digest(main),
    }
