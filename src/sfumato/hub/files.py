"""Build networks from safetensors and JSON files, without unpickling or downloading."""

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

VARIANTS = ("", ".fp16", ".bf16", ".non_ema")  # the first that exists is read
WEIGHTS = tuple(
    f"{name}{variant}.safetensors"
    for name in ("diffusion_pytorch_model", "model")
    for variant in VARIANTS
)
INDEX = ".index.json"  # suffix of an index file, for weights that are split into several files
CHECKPOINT = "checkpoint.safetensors"  # of a training
# what a finished training has written beside its checkpoint
FINISHED = ("config.json", "model_index.json", "pytorch_lora_weights.safetensors", "text_encoder")
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")


def network_from(kind: type[M], config: Any, folder: Path, dtype: torch.dtype = torch.float32) -> M:
    """Build a network from a folder's config and load the folder's weights."""
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

    `weights` is emptied, so that no weight is in memory twice.
    """
    network = outline(kind, settings, source)
    fill(network, weights, source, dtype)
    return network.requires_grad_(False)


def outline(kind: Callable[[C], M], settings: C, source: str) -> M:
    """Build a network without weights, on the meta device.

    Raises
    ------
    ModelError
        If the values of its config do not fit together.
    """
    try:
        with torch.device("meta"):
            return kind(settings)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise ModelError(f"{source}: no network can be built from this config: {error}") from None


def decoded_in(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for an autoencoder: float32 in place of float16, else `dtype`.

    Float16 overflows in the decoder of Stable Diffusion.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def fill(network: nn.Module, weights: dict[str, Tensor], source: str, dtype: torch.dtype) -> None:
    """Load weights into a network by name.

    Names and shapes must agree exactly, except for three known variants: older names of attention
    layers, text encoders without ``text_model.``, and 1x1 kernels in place of matrices.
    """
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
                f"{source} {what} weight {min(names)} ({len(names)} in all): weights and config do "
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
    """Translate old names of the VAE's attention weights to the names used since 2023."""
    for old, new in OLD_NAMES.items():
        if ".attentions." in name:
            name = name.replace(old, new)
    return name


def _squeezed(value: Tensor, shape: torch.Size | None) -> Tensor:
    """Convert 1x1 kernels to matrices: in old files, the VAE's linear layers are convolutions."""
    return value[..., 0, 0] if shape is not None and value.ndim == len(shape) + 2 else value


def weight_file(folder: Path) -> Path:
    """Return the safetensors file in a component's folder, or the index of several files.

    Raises
    ------
    ModelError
        If the folder has neither. If it holds a pickle, the message names this file.
    """
    for name in (*WEIGHTS, *(name + INDEX for name in WEIGHTS)):
        if (folder / name).exists():
            return folder / name
    pickles = [p.name for p in folder.glob("*") if p.suffix in PICKLES]
    hint = f"; {pickles[0]} is a pickle and is not read" if pickles else ""
    raise ModelError(f"{folder} holds no safetensors weights{hint}")


def shards(path: Path) -> list[Path]:
    """Return the files that hold weights.

    If `path` is an index, these are the files that it names, in its folder; else it is `path`
    itself.
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
    """Read all tensors of a safetensors file, or of the files that an index names."""
    try:
        parts = shards(path)
        for part in parts:
            part.open("rb").close()  # its error says why; that of safetensors does not
        return {name: value for part in parts for name, value in load_file(part).items()}
    except PermissionError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from None
    except FileNotFoundError as error:
        raise ModelError(f"{error.filename} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); the file may be truncated"
        ) from None


def unfinished(folder: Path) -> str:
    """Return the message for a folder with an unfinished training run; "" for other folders."""
    if not (folder / CHECKPOINT).exists() or any((folder / name).exists() for name in FINISHED):
        return ""
    return (
        f"{folder} holds a training that is not finished: run the same sfumato train command again "
        "to continue it"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
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
    """Return whether a model works in pixels: its index names no autoencoder."""
    return not any(index.get("vae") or ())


def part(folder: Path, name: str) -> Path:
    """Return the folder of a model's component.

    A component without its own folder lies in the model folder itself, as in the oldest models,
    which have one network.
    """
    return folder / name if (folder / name).is_dir() else folder


def fingerprint(*networks: nn.Module) -> str:
    """Return one SHA-256 over the weights of all networks, in the given order."""
    sum_ = hashlib.sha256()
    for network in networks:
        for value in network.state_dict().values():
            sum_.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sum_.hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; cached until the file changes.

    For the index file of sharded weights, it is the SHA-256 over the digests of the shards.
    """
    if path.name.endswith(INDEX):
        return hashlib.sha256("".join(digest(part) for part in shards(path)).encode()).hexdigest()
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


def digest_of(file: str | bytes) -> str:
    """Return the SHA-256 of a file, given by its path or its content."""
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else digest(Path(file))


def digest_of_texts(folder: Path) -> str:
    """Return the SHA-256 of the .json and .txt files of a folder."""
    sum_ = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".txt")):
        sum_.update(path.name.encode() + b"\0" + path.read_bytes())
    return sum_.hexdigest()


@functools.lru_cache(maxsize=32)
def _digest(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
