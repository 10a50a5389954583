"""Open a model: a bundled name, a folder in diffusers' layout, or a single-file checkpoint.

An unknown config key is an error, and so is a missing or unknown weight. Nothing is unpickled or
downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.text import Encoder, NoText, PairEncoder, TextEncoder, transformers
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.unet import PlainUNetConfig, UNet, UNetConfig
from sfumato.errors import ModelError
from sfumato.hub import single
from sfumato.hub.catalog import model_path
from sfumato.hub.config import PLAIN, Defaults, SchedulerConfig, default_side, defaults_of
from sfumato.hub.files import (
    decoded_in,
    digest,
    digest_of_texts,
    filled,
    in_pixels,
    network_from,
    part,
    read_json,
    read_weights,
    weight_file,
)
from sfumato.hub.lora import FILE, lora_file, lora_scale, merge
from sfumato.runtime import choose_device, choose_dtype
from sfumato.space.detail import Detail
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.pixels import Pixels
from sfumato.types import Condition, Denoise

STUDENT = "fast"  # folder of a model's student
# folders of a model whose weights, or whose .json and .txt files, are part of its digests
NETWORKS = "vae", "text_encoder", "text_encoder_2", "upscaler"
TEXTS = "scheduler", "tokenizer", "tokenizer_2"
DIGITS = 16  # digits of these digests that are kept
PIPELINES = frozenset(
    f"StableDiffusion{kind}Pipeline"
    for kind in ("", "Img2Img", "Inpaint", "XL", "XLImg2Img", "XLInpaint")
)


@dataclass(frozen=True)
class Model:
    """A text-to-image model, ready to run.

    Attributes
    ----------
    name : str
        Name as the user gave it.
    sha256 : str
        SHA-256 digest of the file that holds the U-Net.
    parts : dict of str to str
        First 16 digits of the SHA-256 of each component except the U-Net and the matcher, of the
        student (see `fast`) if it is merged, and of each merged LoRA. The digests are computed when
        the model is loaded, so they belong to the loaded weights.
    denoiser : Denoiser
    space : AutoencoderKL or Pixels
    text : Encoder
    scheduler : SchedulerConfig
    defaults : Defaults
    path : Path
        The model's folder or file.
    loras : tuple of str
        LoRAs that are merged into the weights, by the names that the user gave.
    fast : bool
        Whether the student, the LoRA for sampling in a few steps, is merged into the weights.
    loaded : dict
        Matcher, upscaler and names of training pictures, once they are loaded; copies of the model
        share them.
    """

    name: str
    sha256: str
    parts: Mapping[str, str]
    denoiser: Denoiser
    space: AutoencoderKL | Pixels
    text: Encoder
    scheduler: SchedulerConfig
    defaults: Defaults
    path: Path
    loras: tuple[str, ...] = ()
    fast: bool = False
    loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def matcher(self) -> Matcher | None:
        """The network that scores how well a picture matches a text, or None."""
        if "matcher" not in self.loaded:
            self.loaded["matcher"] = self._load_matcher()
        found: Matcher | None = self.loaded["matcher"]
        return found

    def _load_matcher(self) -> Matcher | None:
        folder = self.path / "matcher"
        if not (folder / "config.json").exists():
            return None
        network = network_from(Matcher, MatcherConfig, folder)
        width = self.text.pooled([""]).shape[1]
        if network.config.text_width != width:
            raise ModelError(
                f"{folder} takes texts of {network.config.text_width} values, but the model's text "
                f"encoder gives {width}"
            )
        return network.to(self.device).eval()

    @property
    def upscaler(self) -> Denoiser | None:
        """Denoiser that enlarges pictures by a factor of 4, or None
        (:mod:`sfumato.tasks.upscale`).
        """
        if "upscaler" not in self.loaded:
            self.loaded["upscaler"] = self._load_upscaler()
        found: Denoiser | None = self.loaded["upscaler"]
        return found

    def _load_upscaler(self) -> Denoiser | None:
        folder = self.path / "upscaler"
        if not (folder / "config.json").exists():
            return None
        network = network_from(UNet, UNetConfig, folder, self.network.conv_in.weight.dtype)
        channels = Detail().config.latent_channels
        width = network.config.cross_attention_dim
        text_width = self.network.config.cross_attention_dim
        made = network.config.in_channels, network.config.out_channels, width
        if made != (channels + 3, channels, text_width):
            raise ModelError(
                f"{folder} is no upscaler of this model: it has {made[0]} input channels, "
                f"{made[1]} output channels and {width} text values; needed: {channels + 3}, "
                f"{channels} and {text_width}"
            )
        return Denoiser(network.to(self.device), "v").eval()

    @property
    def network(self) -> UNet:
        """The U-Net."""
        network = self.denoiser.network
        assert isinstance(network, UNet)
        return network

    def guided(
        self, condition: Condition, negative: Condition, scale: float, *, rescale: float = 0.0
    ) -> Denoise:
        """Return the denoiser with guidance (:func:`sfumato.denoiser.guidance.guided`).

        In pixel space, the estimates are clipped to [-1, 1] (``clip_sample`` in diffusers): the
        ideal estimate is a mean of pictures, so it lies in this range.
        """
        denoise = guided(self.denoiser, condition, negative, scale, rescale=rescale)
        return (
            denoise
            if isinstance(self.space, AutoencoderKL)
            else lambda x, sigma: denoise(x, sigma).clamp(-1, 1)
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.conv_in.weight.device

    @property
    def size(self) -> tuple[int, int]:
        """Default width and height of a picture."""
        side = default_side(self.network.config.sample_size, self.space.config.factor)
        return self.defaults.size or (side, side)

    @property
    def unit(self) -> int:
        """The sides of pictures must be multiples of this number of pixels.

        It is the autoencoder's downsampling factor (1 in pixel space) times the U-Net's.
        """
        return self.space.config.factor * self.network.config.unit


def load(
    name: str | Path = "icons",
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[str | Path] = (),
    *,
    fast: bool = False,
) -> Model:
    """Open a model by bundled name, folder or file.

    Parameters
    ----------
    name : str or Path
        A bundled name such as ``icons``, a folder in diffusers' layout, or a ``.safetensors``
        checkpoint of Stable Diffusion 1, 2 or XL.
    device : str
        ``auto`` (CUDA if available, else the CPU), ``cpu``, ``cuda``, ``mps``.
    dtype : str
        ``auto``, ``float32``, ``bfloat16`` or ``float16``, for the networks' weights and
        activations. ``auto`` is float32 on a CPU, as bfloat16 changes pictures visibly; on a GPU it
        is bfloat16 if the GPU has native bfloat16, else float32.
    loras : sequence of str or Path
        Files or folders of LoRAs, each with an optional scale after a colon, such as ``mine/:0.8``;
        the default scale is 1.
    fast : bool
        Add the LoRA of the model's student (its folder ``fast/``) to the weights in memory. The
        model then samples in a few steps without guidance.

    Raises
    ------
    ModelError
        If files are missing or truncated, or do not match their config.
    ConfigError
        If a key or value in a config is not supported; the message names the key.
    OptionError
        If the name, the device or the dtype is unknown, or the device is not available.

    Examples
    --------
    >>> model = load("icons", device="cpu")
    >>> model.size
    (64, 64)
    """
    name = str(name)
    path = model_path(name)
    where = choose_device(device)
    kind = choose_dtype(dtype, where, exact=True)
    parts = single.read(path, kind) if path.is_file() else _folder(path, name, kind)
    unet, scheduler = parts.unet.to(where), parts.scheduler
    space = parts.space.to(where)
    denoiser = Denoiser(unet, scheduler.kind, scheduler.times()).eval()
    text: Encoder
    match parts.texts:
        case []:
            text = NoText()
        case [one]:
            text = one.to(where)
        case [one, two]:
            text = PairEncoder(one, two, zero_empty=parts.zero_empty).to(where)
    model = Model(
        name,
        digest(parts.weights),
        _digests(path),
        denoiser,
        space.eval(),
        text,
        scheduler,
        parts.defaults,
        path,
    )
    return with_loras(with_student(model) if fast else model, loras)


def with_student(model: Model) -> Model:
    """Merge a model's student (:mod:`sfumato.train.student`) into its weights, in place.

    The returned model has the student's default steps and guidance scale, and Euler as sampler.
    """
    folder = model.path / STUDENT
    if not (folder / FILE).exists():
        raise ModelError(
            f"{model.name} has no {STUDENT}/ for --fast; sfumato train student writes it"
        )
    merge(model.network, [], folder / FILE)
    own = Defaults.read(read_json(folder / "sfumato.json"), str(folder / "sfumato.json"))
    sampling = {"steps": own.steps, "guidance_scale": own.guidance_scale}
    return replace(
        model,
        defaults=model.defaults.model_copy(update=sampling),
        scheduler=model.scheduler.model_copy(update={"sampler": "euler"}),
        fast=True,
        parts={**model.parts, "student": digest(folder / FILE)[:DIGITS]},
    )


def with_loras(model: Model, loras: Sequence[str | Path]) -> Model:
    """Merge LoRAs into a model's weights, in place.

    The returned model also records the names and the digests of the LoRA files.
    """
    merged, parts = model.loras, dict(model.parts)
    for asked in map(str, loras):
        name, scale = lora_scale(asked)
        file = lora_file(name)
        merge(model.network, transformers(model.text), file, scale)
        merged = (*merged, asked)
        parts[f"lora {asked}"] = digest(file)[:DIGITS]
    return replace(model, loras=merged, parts=parts)


def _digests(path: Path) -> dict[str, str]:
    """Digests of all components except the U-Net and the matcher; empty for a single file."""
    found = {}
    for name in (*NETWORKS, *TEXTS):
        folder = path / name
        if folder.is_dir():
            sha256 = digest(weight_file(folder)) if name in NETWORKS else digest_of_texts(folder)
            found[name] = sha256[:DIGITS]
    return found


def _folder(folder: Path, name: str, dtype: torch.dtype) -> single.Parts:
    """Read the parts of a model in diffusers' layout."""
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") in PLAIN:
        return _plain(folder, index, name, dtype)
    if index.get("_class_name") not in PIPELINES:
        raise ModelError(
            f"{name} is a {index.get('_class_name')}; supported are "
            f"{', '.join(sorted(PIPELINES | PLAIN))}"
        )
    unet = network_from(UNet, UNetConfig, folder / "unet", dtype)
    space = (
        _pixels(unet, name)
        if in_pixels(index)
        else network_from(AutoencoderKL, AutoencoderConfig, folder / "vae", decoded_in(dtype))
    )
    scheduler = SchedulerConfig.from_file(
        read_json(folder / "scheduler" / "scheduler_config.json"), f"{name}/scheduler"
    )
    xl = "text_encoder_2" in index
    texts = [_text(folder, suffix, dtype, xl=xl) for suffix in (("", "_2") if xl else ("",))]
    defaults = defaults_of(folder, index)
    zero_empty = bool(index.get("force_zeros_for_empty_prompt", False))
    return single.Parts(
        weight_file(folder / "unet"), unet, space, texts, scheduler, defaults, zero_empty
    )


def _plain(folder: Path, index: Mapping[str, Any], name: str, dtype: torch.dtype) -> single.Parts:
    """Read the parts of an unconditional model in pixel space."""
    unet, scheduler = part(folder, "unet"), part(folder, "scheduler")
    config = PlainUNetConfig.read(
        read_json(unet / "config.json"), str(unet / "config.json")
    ).network()
    network = filled(UNet, config, read_weights(weight_file(unet)), str(unet), dtype)
    schedule = SchedulerConfig.from_file(
        read_json(scheduler / "scheduler_config.json"), f"{name}/scheduler"
    )
    space = _pixels(network, name)
    return single.Parts(weight_file(unet), network, space, [], schedule, defaults_of(folder, index))


def _pixels(network: UNet, name: str) -> Pixels:
    """Return the pixel space of a model without an autoencoder."""
    channels = network.config.out_channels
    if channels not in (1, 3):
        raise ModelError(
            f"{name} has no autoencoder, but its U-Net outputs {channels} channels; pixels need 1 "
            "(gray) or 3 (RGB)"
        )
    return Pixels(channels)


def _text(folder: Path, suffix: str, dtype: torch.dtype, *, xl: bool) -> TextEncoder:
    clip = network_from(CLIPText, CLIPTextConfig, folder / f"text_encoder{suffix}", dtype)
    return TextEncoder(
        clip.eval(), CLIPTokenizer.load(folder / f"tokenizer{suffix}"), skip=int(xl), normed=not xl
    )
