"""Which models there are: the bundled ones, and paths of the user's own."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import ModelError, unknown
from sfumato.hub.files import PICKLES, read_json, unfinished

BUNDLED = Path(__file__).parents[1] / "pretrained"
RESTORER = "Restorer"
# networks that are no models by themselves, by the class in their config, and their use
PARTS = {
    RESTORER: "a restorer: sfumato restore --model uses it",
    "AutoencoderKL": "an autoencoder: sfumato train diffusion --autoencoder uses it",
    "Matcher": "a matcher, which is a part of a model",
    "UNet2DConditionModel": "a U-Net, which is a part of a model",
}


def bundled() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/model_index.json"))


def is_model(name: str | Path) -> bool:
    """Return whether `name` is a bundled text-to-image model, a model folder or a checkpoint."""
    path = Path(name)
    there = (path / "model_index.json").exists() or path.suffix == ".safetensors"
    return str(name) in bundled() or there


def restorers() -> list[str]:
    """Return the names of the bundled restorers, the networks of ``sfumato restore``."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))


def restorer_folder(name: str | Path) -> Path:
    """Return the folder of a bundled restorer, or the user's own folder with a restorer."""
    folder = BUNDLED / name if str(name) in restorers() else Path(name)
    if not (folder / "config.json").exists():
        raise ModelError(
            unfinished(folder)
            or described_part(folder)
            or f"{name} is no restorer (sfumato train restorer trains one; bundled restorers: "
            f"{', '.join(restorers())})"
        )
    if (kind := read_json(folder / "config.json").get("_class_name", RESTORER)) != RESTORER:
        raise ModelError(described_part(folder) or f"{folder} holds a {kind}, not a restorer")
    return folder


def model_path(name: str) -> Path:
    """Return the path of a model: the folder of a bundled model, or the given folder or file."""
    if name in bundled():
        return BUNDLED / name
    path = Path(name)
    if path.suffix in PICKLES:
        raise ModelError(
            f"{name} is a pickle, which can run code when opened; if you trust the file, convert "
            "it to .safetensors"
        )
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise ModelError(unfinished(path) or described_part(path) or _what_it_is(path))
        return path
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{name} is no checkpoint: a single file must be .safetensors")
        return path
    if name in restorers():
        raise ModelError(f"{name} is a network of sfumato restore, not a text-to-image model")
    raise unknown("model", name, bundled())


def described_part(folder: Path) -> str:
    """Say which part of a model a folder holds, and what uses it; "" if it holds none."""
    if (folder / "pytorch_lora_weights.safetensors").exists():
        return f"{folder} is a LoRA: sfumato create --lora uses it"
    if (folder / "config.json").exists():
        kind = str(read_json(folder / "config.json").get("_class_name"))
        return f"{folder} is {PARTS[kind]}" if kind in PARTS else ""
    if (folder / "model_index.json").exists():
        return f"{folder} is a text-to-image model: --model of sfumato create uses it"
    if (folder / "text_encoder").exists():
        return f"{folder} is a text encoder: sfumato train diffusion --text uses it"
    for part in ("matcher", "upscaler"):
        if (folder / part / "config.json").exists():
            return f"{folder} holds only the {part} of a model; train it into the model's folder"
    return ""


def _what_it_is(folder: Path) -> str:
    """Say that a folder is no model, and what it is."""
    if (folder / "estimator.json").exists():
        return f"{folder} is an estimator: load it in Python with its class, as sfumato.PCA.load"
    if (folder / "index.json").exists():
        return f"{folder} is an index: sfumato search uses it"
    if (folder / "report.html").exists():
        return f"{folder} is a report of sfumato reduce: open {folder / 'report.html'}"
    return (
        f"{folder} is no model folder: it has no model_index.json (diffusers' layout is expected)"
    )
