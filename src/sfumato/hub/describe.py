"""What is in a model, without loading it."""

from __future__ import annotations

from typing import Any

from sfumato.hub.config import Defaults
from sfumato.hub.load import digest, read_json, resolve, weight_file


def describe(name: str) -> dict[str, Any]:
    """A model's size, licence, styles and digest, from its files."""
    folder = resolve(name)
    own = folder / "sfumato.json"
    defaults = Defaults.read(read_json(own), str(own)) if own.exists() else Defaults()
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    side = (unet.get("sample_size") or 64) * 2 ** (len(vae["block_out_channels"]) - 1)
    weights = [weight_file(p) for p in sorted(folder.iterdir()) if p.name.startswith(("unet", "vae", "text_encoder"))]
    return {
        "name": name,
        "description": defaults.description,
        "licence": defaults.licence,
        "size": list(defaults.size or (side, side)),
        "megabytes": round(sum(w.stat().st_size for w in weights) / 1e6, 1),
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "styles": sorted(defaults.styles),
        "pipeline": read_json(folder / "model_index.json").get("_class_name"),
        "sha256": digest(weight_file(folder / "unet")),
    }
