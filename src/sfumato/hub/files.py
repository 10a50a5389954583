"""Files of a model: safetensors and JSON in, networks out. Nothing is unpickled and nothing is
fetched.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.errors import ModelError

VARIANTS = ("", ".fp16", ".bf16", ".non_ema")  # the first that is there is read
WEIGHTS = tuple(
    f"{name}{variant}.safetensors"
    for name in ("diffusion_pytorch_model", "model")
    for variant in VARIANTS
)
INDEX = ".index.json"  # of weights in several files
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")


def network_from(kind: type[M], config: Any, folder: Path, dtype: torch.dtype = torch.float32) -> M:
    """Build a network from a folder's config and fill it with its weights."""
    settings = config.read(read_json(folder / "config.json"), str(folder / "config.json"))
    return filled(kind, settings, read_weights(weight_file(folder)), str(folder), dtype)


def filled(
    kind: Callable[[C], M],
    settings: C,
    weights: dict[str, Tensor],
    source: str,
    dtype: torch.dtype = torch.float32,
) -> M:
    """Build a network without random initialization and load `weights`.

    `weights` is emptied, so that no weight is held twice.
    """
    network = outline(kind, settings, source)
    fill(network, weights, source, dtype)
    return network.requires_grad_(False)


def outline(kind: Callable[[C], M], settings: C, source: str) -> M:
    """A network without weights, on the meta device.

    Raises
    ------
    ModelError
        If the numbers of its config do not go together.
    """
    try:
        with torch.device("meta"):
            return kind(settings)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise ModelError(f"{source}: its numbers make no network: {error}") from None


def decoded_in(dtype: torch.dtype) -> torch.dtype:
    """What an autoencoder is computed in: half precision overflows in the decoder of Stable
    Diffusion, bfloat16 does not.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def fill(network: nn.Module, weights: dict[str, Tensor], source: str, dtype: torch.dtype) -> None:
    """Put weights in place by name; names and shapes must agree exactly."""
    weights = {
        _modern(k): weights.pop(k).to(dtype)
        for k in list(weights)
        if not k.endswith("position_ids")
    }
    if (
        "text_model.final_layer_norm.weight" in network.state_dict()
        and "final_layer_norm.weight" in weights
    ):
        weights = {
            k if k.startswith("text_projection") else f"text_model.{k}": v
            for k, v in weights.items()
        }
    want = {k: v.shape for k, v in network.state_dict().items()}
    have = {k: _squeezed(v, want.get(k)) for k, v in weights.items()}
    for what, names in (
        ("lacks", want.keys() - have.keys()),
        ("has an unknown", have.keys() - want.keys()),
    ):
        if names:
            raise ModelError(
                f"{source} {what} weight {min(names)} ({len(names)} such): weights and config do "
                "not belong together"
            )
    wrong = [k for k in want if have[k].shape != want[k]]
    if wrong:
        raise ModelError(
            f"{source}: weight {wrong[0]} has shape {tuple(have[wrong[0]].shape)}, the config asks "
            f"for {tuple(want[wrong[0]])}"
        )
    network.load_state_dict(have, assign=True)


OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def _modern(name: str) -> str:
    """Names of the VAE's attention as written since 2023."""
    for old, new in OLD_NAMES.items():
        if ".attentions." in name:
            name = name.replace(old, new)
    return name


def _squeezed(value: Tensor, shape: torch.Size | None) -> Tensor:
    """Old files store the VAE's linear layers as 1x1 convolutions."""
    return value[..., 0, 0] if shape is not None and value.ndim == len(shape) + 2 else value


def weight_file(folder: Path) -> Path:
    """The safetensors file of a component's folder, or the index of several.

    Raises
    ------
    ModelError
        If there is none, naming a pickle that is there instead.
    """
    for name in (*WEIGHTS, *(name + INDEX for name in WEIGHTS)):
        if (folder / name).exists():
            return folder / name
    pickles = [p.name for p in folder.glob("*") if p.suffix in PICKLES]
    hint = f"; {pickles[0]} is a pickle and is not read" if pickles else ""
    raise ModelError(f"{folder} holds no safetensors weights{hint}")


def shards(path: Path) -> list[Path]:
    """The files that hold weights: a safetensors file itself, or those that an index names, which
    lie beside it.
    """
    if not path.name.endswith(INDEX):
        return [path]
    named = read_json(path).get("weight_map")
    names = (
        sorted(set(named.values()))
        if isinstance(named, dict) and named and all(isinstance(n, str) for n in named.values())
        else []
    )
    if not names or any(
        Path(name).name != name or not name.endswith(".safetensors") for name in names
    ):
        raise ModelError(f"{path} is no index of safetensors files")
    return [path.with_name(name) for name in names]


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of those that an index names."""
    try:
        return {name: value for part in shards(path) for name, value in load_file(part).items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); it may be cut short"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object")
    return data


def in_pixels(index: Mapping[str, Any]) -> bool:
    """Whether a model's index names no autoencoder."""
    return not any(index.get("vae") or ())


def part(folder: Path, name: str) -> Path:
    """Where a part of a model is: in its own folder, or beside the index, as in the oldest models
    of one network.
    """
    return folder / name if (folder / name).is_dir() else folder


def fingerprint(*networks: nn.Module) -> str:
    """SHA-256 of all weights of some networks, in their order."""
    sum_ = hashlib.sha256()
    for network in networks:
        for value in network.state_dict().values():
            sum_.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sum_.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, or over those of the files that an index names; read once, until they
    change.
    """
    if path.name.endswith(INDEX):
        return hashlib.sha256("".join(digest(part) for part in shards(path)).encode()).hexdigest()
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


def digest_of_texts(folder: Path) -> str:
    """SHA-256 of the small files of a folder, its JSON and lists of words."""
    sum_ = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".txt")):
        sum_.update(path.name.encode() + b"\0" + path.read_bytes())
    return sum_.hexdigest()


@functools.lru_cache(maxsize=32)
def _digest(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
