"""Open a model: a bundled name or a folder in diffusers' layout.

Every config is read strictly and every weight must find its place. Nothing is unpickled and nothing is fetched.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.text import Encoder, PairEncoder, TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ModelError, unknown
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.runtime import choose_device, choose_dtype
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL

BUNDLED = Path(__file__).parents[1] / "pretrained"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.safetensors", "model.fp16.safetensors")
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionXLPipeline", "StableDiffusionImg2ImgPipeline"})
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Model:
    """A text-to-image model, ready to run.

    Attributes
    ----------
    name : str
        What the user called it.
    folder : Path
    denoiser : Denoiser
    space : AutoencoderKL
    text : Encoder
    scheduler : SchedulerConfig
    defaults : Defaults
    """

    name: str
    folder: Path
    denoiser: Denoiser
    space: AutoencoderKL
    text: Encoder
    scheduler: SchedulerConfig
    defaults: Defaults

    @property
    def network(self) -> UNet:
        """The U-Net."""
        network = self.denoiser.network
        assert isinstance(network, UNet)
        return network

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.conv_in.weight.device

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture where the user gives none."""
        side = (self.network.config.sample_size or 64) * self.space.config.factor
        return self.defaults.size or (side, side)

    @property
    def sha256(self) -> str:
        """Digest of the U-Net's weight file."""
        return digest(weight_file(self.folder / "unet"))


def bundled() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/model_index.json"))


def resolve(name: str) -> Path:
    """The folder of a bundled name or of a path.

    Raises
    ------
    ModelError, OptionError
        If there is no such model, or the path is a pickle or no model folder.
    """
    if name in bundled():
        return BUNDLED / name
    path = Path(name)
    if path.suffix in PICKLES:
        raise ModelError(f"{name} is a pickle, which can run code when opened; convert it to .safetensors where you trust it")
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise ModelError(f"{name} is no model folder: it has no model_index.json (diffusers' layout is expected)")
        return path
    if path.is_file():
        raise ModelError(f"{name} is a single file; give a folder in diffusers' layout (model_index.json, unet/, vae/, ...)")
    raise unknown("model", name, bundled())


def load(name: str = "icons", device: str = "auto", dtype: str = "auto") -> Model:
    """Open a model by bundled name or folder.

    Parameters
    ----------
    name : str
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.
    dtype : str
        ``auto``, ``float32``, ``bfloat16``, ``float16``; of the networks' weights and activations.

    Raises
    ------
    ModelError
        If files are missing, cut short, or do not fit their config.
    ConfigError
        If a config asks for what is not supported, by key.
    """
    folder = resolve(name)
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") not in PIPELINES:
        raise ModelError(f"{name} is a {index.get('_class_name')}; supported are {', '.join(sorted(PIPELINES))}")
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    unet = network_from(UNet, UNetConfig, folder / "unet").to(where, kind)
    # Half precision overflows in the decoder of Stable Diffusion: bfloat16 does not.
    space = network_from(AutoencoderKL, AutoencoderConfig, folder / "vae").to(where, torch.float32 if kind == torch.float16 else kind)
    scheduler = SchedulerConfig.from_file(read_json(folder / "scheduler" / "scheduler_config.json"), f"{name}/scheduler")
    denoiser = Denoiser(unet, scheduler.kind, scheduler.times()).eval()
    text = _text(folder, xl="text_encoder_2" in index)
    text.to(where, kind)
    own = folder / "sfumato.json"
    defaults = Defaults.read(read_json(own), str(own)) if own.exists() else Defaults()
    return Model(name, folder, denoiser, space.eval(), text, scheduler, defaults)


def _text(folder: Path, *, xl: bool) -> TextEncoder | PairEncoder:
    def one(suffix: str, skip: int) -> TextEncoder:
        clip = network_from(CLIPText, CLIPTextConfig, folder / f"text_encoder{suffix}")
        return TextEncoder(clip.eval(), CLIPTokenizer.load(folder / f"tokenizer{suffix}"), skip=skip, normed=not xl)

    return PairEncoder(one("", 1), one("_2", 1)) if xl else one("", 0)


def network_from(kind: type[M], config: Any, folder: Path) -> M:
    """Build a network from a folder's config and fill it with its weights."""
    settings = config.read(read_json(folder / "config.json"), str(folder / "config.json"))
    with torch.device("meta"):
        network = kind(settings)
    fill(network, read_weights(weight_file(folder)), str(folder))
    return network.requires_grad_(False)


def fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Put weights in place by name; names and shapes must agree exactly."""
    weights = {_modern(k): v.float() for k, v in weights.items() if not k.endswith("position_ids")}
    if "text_model.final_layer_norm.weight" in network.state_dict() and "final_layer_norm.weight" in weights:
        weights = {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in weights.items()}
    want = {k: v.shape for k, v in network.state_dict().items()}
    have = {k: _squeezed(v, want.get(k)) for k, v in weights.items()}
    for what, names in (("lacks", want.keys() - have.keys()), ("has an unknown", have.keys() - want.keys())):
        if names:
            raise ModelError(f"{source} {what} weight {min(names)} ({len(names)} such): weights and config do not belong together")
    wrong = [k for k in want if have[k].shape != want[k]]
    if wrong:
        raise ModelError(f"{source}: weight {wrong[0]} has shape {tuple(have[wrong[0]].shape)}, the config asks for {tuple(want[wrong[0]])}")
    network.load_state_dict(have, assign=True)


OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


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
    """The one safetensors file of a component's folder.

    Raises
    ------
    ModelError
        If there is none, naming a pickle that is there instead.
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    pickles = [p.name for p in folder.glob("*") if p.suffix in PICKLES]
    hint = f"; {pickles[0]} is a pickle and is not read" if pickles else ""
    raise ModelError(f"{folder} holds no safetensors weights{hint}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); it may be cut short") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object")
    return data


@functools.lru_cache(maxsize=8)
def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
