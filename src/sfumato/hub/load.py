"""Open a model: a bundled name, a folder in diffusers' layout, or a single-file checkpoint.

An unknown config key is an error, and so is a missing or unknown weight. Nothing is unpickled or
downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.text import Encoder, NoText, PairEncoder, TextEncoder, transformers
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.unet import PlainUNetConfig, UNet, UNetConfig
from sfumato.errors import ModelError, unknown
from sfumato.hub import single
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.files import (
    PICKLES,
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

BUNDLED = Path(__file__).parents[1] / "pretrained"
STUDENT = "fast"  # folder of a model's student
PIPELINES = frozenset(
    f"StableDiffusion{kind}Pipeline"
    for kind in ("", "Img2Img", "Inpaint", "XL", "XLImg2Img", "XLInpaint")
)
# pipelines with a U-Net on pixels, without text
PLAIN = frozenset({"DDPMPipeline", "DDIMPipeline", "PNDMPipeline"})


@dataclass(frozen=True)
class Model:
    """A text-to-image model, ready to run.

    Attributes
    ----------
    name : str
        Name as the user gave it.
    weights : Path
        The file that holds the U-Net.
    denoiser : Denoiser
    space : AutoencoderKL or Pixels
    text : Encoder
    scheduler : SchedulerConfig
    defaults : Defaults
    path : Path
        The model's folder or file.
    loras : dict of str to str
        LoRAs that are merged into the weights: name as the user gave it -> digest of the file.
    student : str
        Digest of the student, the LoRA for sampling in a few steps; empty if no student is merged.
    """

    name: str
    weights: Path
    denoiser: Denoiser
    space: AutoencoderKL | Pixels
    text: Encoder
    scheduler: SchedulerConfig
    defaults: Defaults
    path: Path
    loras: Mapping[str, str] = field(default_factory=dict)
    student: str = ""

    @functools.cached_property
    def matcher(self) -> Matcher | None:
        """The network that scores how well a picture matches a text, or None."""
        folder = self.path / "matcher"
        if not (folder / "config.json").exists():
            return None
        network, width = (
            network_from(Matcher, MatcherConfig, folder),
            self.text.pooled([""]).shape[1],
        )
        if network.config.text_width != width:
            raise ModelError(
                f"{folder} takes texts of {network.config.text_width} values, but the model's text "
                f"encoder gives {width}"
            )
        return network.to(self.device).eval()

    @functools.cached_property
    def upscaler(self) -> Denoiser | None:
        """Denoiser that enlarges pictures by 4 (:mod:`sfumato.tasks.upscale`), or None."""
        folder = self.path / "upscaler"
        if not (folder / "config.json").exists():
            return None
        network = network_from(UNet, UNetConfig, folder, self.network.conv_in.weight.dtype)
        channels, width = Detail().config.latent_channels, network.config.cross_attention_dim
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
        side = (self.network.config.sample_size or 64) * self.space.config.factor
        return self.defaults.size or (side, side)

    @property
    def unit(self) -> int:
        """The sides of pictures must be multiples of this number of pixels.

        It is the autoencoder's downsampling factor (1 in pixel space) times the U-Net's.
        """
        return self.space.config.factor * self.network.config.unit

    @property
    def sha256(self) -> str:
        """SHA-256 digest of the file that holds the U-Net."""
        return digest(self.weights)

    @property
    def parts(self) -> dict[str, str]:
        """SHA-256 digests (16 digits) by component, without U-Net and matcher."""
        added = {f"lora {name}": sha256[:16] for name, sha256 in self.loras.items()}
        added |= {"student": self.student[:16]} if self.student else {}
        if not self.path.is_dir():
            return added
        networks, texts = (
            ("vae", "text_encoder", "text_encoder_2", "upscaler"),
            ("scheduler", "tokenizer", "tokenizer_2"),
        )
        there = {
            name: self.path / name for name in (*networks, *texts) if (self.path / name).is_dir()
        }
        found = {
            name: (digest(weight_file(folder)) if name in networks else digest_of_texts(folder))[
                :16
            ]
            for name, folder in there.items()
        }
        return found | added


def bundled() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/model_index.json"))


def is_model(name: str | Path) -> bool:
    """Return whether `name` is a bundled text-to-image model, a model folder or a checkpoint."""
    path = Path(name)
    there = (path / "model_index.json").exists() or path.suffix == ".safetensors"
    return str(name) in bundled() or there


def restorers() -> list[str]:
    """Return the names of the restorers that come with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))


def restorer_folder(name: str | Path) -> Path:
    """Return the folder of a bundled restorer, or the user's own folder with a restorer."""
    folder = BUNDLED / name if str(name) in restorers() else Path(name)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{name} is no restorer (sfumato train restorer trains one; bundled restorers: "
            f"{', '.join(restorers())})"
        )
    return folder


def resolve(name: str) -> Path:
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
            raise ModelError(
                f"{name} is no model folder: it has no model_index.json (diffusers' layout is "
                "expected)"
            )
        return path
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{name} is no checkpoint: a single file must be .safetensors")
        return path
    raise unknown("model", name, bundled())


def load(
    name: str | Path = "icons",
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[str] = (),
    *,
    fast: bool = False,
) -> Model:
    """Open a model by bundled name, folder or file.

    Parameters
    ----------
    name : str or Path
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.
    dtype : str
        ``auto``, ``float32``, ``bfloat16`` or ``float16``, for the networks' weights and
        activations. ``auto`` is float32 on a CPU, as bfloat16 changes pictures visibly; on a GPU it
        is bfloat16 if the GPU supports it.
    loras : sequence of str
        Files or folders of LoRAs, each with an optional scale after a colon, such as ``mine/:0.8``;
        the default scale is 1.
    fast : bool
        Merge the LoRA from ``fast/`` in the model's folder. The model then samples in a few steps
        without guidance.

    Raises
    ------
    ModelError
        If files are missing or truncated, or do not match their config.
    ConfigError
        If a key or value in a config is not supported; the message names the key.
    """
    name = str(name)
    path = resolve(name)
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
        name, parts.weights, denoiser, space.eval(), text, scheduler, parts.defaults, path
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
        student=digest(folder / FILE),
    )


def with_loras(model: Model, loras: Sequence[str]) -> Model:
    """Merge LoRAs into a model's weights, in place.

    The returned model also records the digests of the LoRA files.
    """
    digests = dict(model.loras)
    for asked in loras:
        name, scale = lora_scale(asked)
        merge(model.network, transformers(model.text), lora_file(name), scale)
        digests[asked] = digest(lora_file(name))
    return replace(model, loras=digests)


def _folder(folder: Path, name: str, dtype: torch.dtype) -> single.Parts:
    """Read the parts of a model in diffusers' layout."""
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") in PLAIN:
        return _plain(folder, name, dtype)
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
    own = folder / "sfumato.json"
    usual = Defaults(guidance_scale=5.0) if xl else Defaults()
    defaults = Defaults.read(read_json(own), str(own)) if own.exists() else usual
    zero_empty = bool(index.get("force_zeros_for_empty_prompt", False))
    return single.Parts(
        weight_file(folder / "unet"), unet, space, texts, scheduler, defaults, zero_empty
    )


def _plain(folder: Path, name: str, dtype: torch.dtype) -> single.Parts:
    """Read the parts of an unconditional model in pixel space."""
    unet, scheduler = part(folder, "unet"), part(folder, "scheduler")
    config = PlainUNetConfig.read(
        read_json(unet / "config.json"), str(unet / "config.json")
    ).network()
    network = filled(UNet, config, read_weights(weight_file(unet)), str(unet), dtype)
    schedule = SchedulerConfig.from_file(
        read_json(scheduler / "scheduler_config.json"), f"{name}/scheduler"
    )
    return single.Parts(
        weight_file(unet),
        network,
        _pixels(network, name),
        [],
        schedule,
        Defaults(guidance_scale=1.0),
    )


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
