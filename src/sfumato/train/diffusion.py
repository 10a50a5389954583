"""Train latent diffusion on captioned pictures, with a frozen autoencoder and text encoder.

Latents and text states are computed once and kept on disk, so a step runs only the U-Net.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from sfumato import image
from sfumato.condition.text import NoText, TextEncoder
from sfumato.corruption.noise import DiffusionNoise, normal
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.guidance import guided
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import ConfigError, OptionError
from sfumato.hub.catalog import BUNDLED, bundled
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.files import fingerprint, network_from
from sfumato.hub.load import Model, load
from sfumato.hub.save import save_index, save_network, save_scheduler, save_text
from sfumato.runtime import Streams, choose_device, on_device, seeded
from sfumato.sampler.ode import dpmpp_2m
from sfumato.sampler.schedule import initial
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.pixels import Pixels
from sfumato.train.latents import Latents
from sfumato.train.loop import train
from sfumato.train.loss import denoising_loss, drop_condition
from sfumato.train.pack import pack
from sfumato.train.plan import (
    Event,
    Plan,
    check_size,
    checked,
    identity,
    read_plan,
    skipped_lines,
    text_encoder,
)
from sfumato.types import Condition

STATES = 2000  # number of texts for estimating the standard deviation of the text states
DROPPED = 0.1  # share of captions replaced by the empty text (Ho & Salimans 2022, section 4)


class DiffusionJob:
    """The denoising objective on cached latents and text states.

    Parameters
    ----------
    config : UNetConfig
    data : Latents
        Latents and text states, computed by :meth:`Latents.prepare`.
    scheduler : SchedulerConfig
        Noise levels and prediction type.
    prompts : sequence of str
        Prompts of the previews.
    shift : float
        Values above 1 sample high noise levels more often (:class:`DiffusionNoise`).
    text_noise : float
        Standard deviation of the noise on the text states, relative to the standard deviation of
        the states. With this noise, texts of similar meaning give similar pictures.
    """

    def __init__(
        self,
        config: UNetConfig,
        data: Latents,
        scheduler: SchedulerConfig,
        prompts: list[str],
        shift: float = 1.0,
        text_noise: float = 0.0,
    ) -> None:
        self.module = UNet(config)
        self.denoiser = Denoiser(self.module, scheduler.kind, scheduler.times())
        self.corruption = DiffusionNoise(self.denoiser.times.sigmas, shift)
        self.data, self.prompts, self.weights = data, prompts, data.weights
        self.empty = self._tokens([data.texts.index("")])
        self.text_noise = 0.0
        if text_noise:
            states = data.states(range(min(STATES, len(data.texts))))
            self.text_noise = text_noise * float(states.std())

    def _tokens(self, places: Sequence[int]) -> Condition:
        return Condition(tokens=self.data.states(places).to(self.module.conv_in.weight.device))

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss; each row gets one of its captions or, at random, the empty text."""
        device = self.module.conv_in.weight.device
        self.data.keep_on(
            device, "pixels" if isinstance(self.data.space, Pixels) else "latents", "states"
        )
        condition, large = self._tokens(self.data.draw(rows, random)), on_device(random, device)
        if self.text_noise and condition.tokens is not None:
            noise = self.text_noise * normal(condition.tokens, large)
            condition = Condition(tokens=condition.tokens + noise)
        condition = drop_condition(condition, self.empty, DROPPED, random)
        z = self.data.latents(rows).to(device)
        return denoising_loss(self.denoiser, z, self.corruption, condition, generator=large)

    def preview(self) -> Image.Image | None:
        """Return pictures of fixed prompts from fixed noise: 20 steps, guidance scale 3."""
        if not self.prompts:
            return None
        device = self.module.conv_in.weight.device
        condition, negative = (
            self.data.text(p, (0, 0))[0].to(device)
            for p in (self.prompts, [""] * len(self.prompts))
        )
        table = self.denoiser.times.sigmas
        sigmas = torch.cat(
            [table[list(range(len(table) - 1, 0, -len(table) // 20))], table.new_zeros(1)]
        )
        shape = self.data.latents(torch.tensor([0])).shape[1:]
        noise = Streams(range(len(self.prompts))).normal((len(self.prompts), *shape)).to(device)
        trajectory = dpmpp_2m(
            guided(self.denoiser, condition, negative, 3.0),
            initial(noise, float(sigmas[0])),
            sigmas,
        )
        z = [step.x for step in trajectory][-1]
        return image.sheet(
            image.to_pictures(self.data.space.decode(z)),
            columns=min(8, len(self.prompts)),
            captions=self.prompts,
        )


STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


def train_diffusion(
    data: Path,
    output: Path,
    autoencoder: Path | None,
    text: Path | None,
    config: Path | None,
    given: Mapping[str, Any],
    start: str | None = None,
    *,
    pixels: bool = False,
) -> Iterator[Event]:
    """Train a text-to-image model on latents or, with `pixels`, on pixels; write a model folder.

    Parameters
    ----------
    data : Path
        Captioned pictures: a folder, ``.parquet`` or ``.tar`` file.
    output : Path
    autoencoder : Path, optional
        Folder of an autoencoder; not needed with `pixels` or `start`.
    text : Path, optional
        Folder or name of a text encoder or of a model that has one; not needed with `start`.
    config : Path, optional
        JSON file of a :class:`sfumato.train.plan.Plan`.
    given : mapping
        Settings that take precedence over those of the config file.
    start : str, optional
        A model (a bundled name, a folder or a checkpoint). Training then continues from its U-Net
        and keeps its autoencoder and text encoder.
    pixels : bool
        Train on pixels, without an autoencoder.
    """
    kind = "diffusion from a model" if start else "diffusion"
    plan, settings = read_plan(kind, data, output, config, given)
    base, space, encoder = _base_model(
        autoencoder, text, plan, start, settings.device, pixels=pixels
    )
    size = _size(plan, base)
    small = _small_unet(size, space, encoder.clip.config.hidden_size)
    network = base.network.config if base else checked(UNet, UNetConfig, {**small, **plan.network})
    unit = space.config.factor * network.unit
    check_size(size, unit, "the space's factor times the U-Net's downsampling factor")
    _check_channels(network, space)
    scheduler, defaults = _described(plan, base, size)
    _check_defaults(defaults, unit)
    yield f"reading {data}"
    pictures = yield from pack(data, size, output / "cache", captions=True)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    found = Latents(pictures, space, encoder, output / "cache")
    encoders = fingerprint(space, encoder.clip)
    yield from found.prepare(encoders, states=True, own_scale=base is None)
    with seeded(settings.seed):
        job = DiffusionJob(network, found, scheduler, plan.previews, plan.shift, plan.text_noise)
    if base is not None:
        job.module.load_state_dict(base.network.state_dict())
    about = {
        "scheduler": scheduler.model_dump(mode="json"),
        "start": start,
        "encoders": encoders,
        **plan.model_dump(include={"shift", "text_noise"}),
    }
    known = identity(plan, pictures.digest, network, task="diffusion", **about)
    yield from train(job, settings, output, known)
    _save(job.module, space, encoder, base, output)
    save_scheduler(scheduler, output / "scheduler")
    save_index(output, defaults, scheduler, pixels=isinstance(space, Pixels))


def _save(
    network: UNet,
    space: AutoencoderKL | Pixels,
    encoder: TextEncoder,
    base: Model | None,
    output: Path,
) -> None:
    """Write the networks of a model folder."""
    save_network(network, output / "unet")
    if isinstance(space, AutoencoderKL):
        save_network(space, output / "vae")
    save_text(encoder.clip, encoder.tokenizer, output)
    if base is not None and base.matcher is not None:
        save_network(base.matcher, output / "matcher")
    if base is not None and base.upscaler is not None:  # its inputs, pictures and texts, stay
        upscaler = base.upscaler.network
        assert isinstance(upscaler, UNet)
        save_network(upscaler, output / "upscaler")


def _described(plan: Plan, base: Model | None, size: int) -> tuple[SchedulerConfig, Defaults]:
    """The scheduler's config, and the model's defaults for ``sfumato create``."""
    if base is None:
        scheduler = SchedulerConfig.read({**STABLE_DIFFUSION, **plan.scheduler}, "scheduler")
        return scheduler, Defaults.read(plan.defaults, "defaults")
    known = base.defaults.model_dump(mode="json", exclude_defaults=True)
    if base.size != (size, size):
        known["size"] = [size, size]
    return base.scheduler, Defaults.read({**known, **plan.defaults}, "defaults")


def _check_channels(network: UNetConfig, space: AutoencoderKL | Pixels) -> None:
    channels = space.config.latent_channels
    if (network.in_channels, network.out_channels) != (channels, channels):
        what = "pixels" if isinstance(space, Pixels) else "latents of the autoencoder"
        raise ConfigError(
            f"network: in_channels is {network.in_channels} and out_channels is "
            f"{network.out_channels}, but the {what} have {channels} channels"
        )


def _check_defaults(defaults: Defaults, unit: int) -> None:
    """Refuse a default size that the model could not generate."""
    for side in defaults.size or ():
        if side < unit or side % unit:
            raise ConfigError(f"defaults: size {side} is not a multiple of {unit}")


def _base_model(
    autoencoder: Path | None,
    text: Path | None,
    plan: Plan,
    start: str | None,
    device: str,
    *,
    pixels: bool,
) -> tuple[Model | None, AutoencoderKL | Pixels, TextEncoder]:
    """The model that training starts from (or None), the space, and the text encoder."""
    if start is None:
        if (autoencoder is None) != pixels:
            raise OptionError(
                "give --autoencoder (see train autoencoder) or --pixels; or --start, the model "
                "to fine-tune"
            )
        space = (
            Pixels(plan.network.get("out_channels", 3))
            if autoencoder is None
            else network_from(AutoencoderKL, AutoencoderConfig, _vae_folder(autoencoder)).eval()
        )
        encoder = text_encoder(text or Path("icons"))
        encoder.clip.to(choose_device(device))
        return None, space.to(choose_device(device)), encoder
    check_kept(autoencoder, text, pixels, plan.network, plan.scheduler)
    base, encoder = load_to_train(start, device)
    return base, base.space, encoder


def _vae_folder(given: Path) -> Path:
    """The folder of an autoencoder: the given one, or that of a bundled name or a model folder."""
    folder = BUNDLED / given if str(given) in bundled() else given
    return folder / "vae" if (folder / "vae").is_dir() else folder


def check_kept(*others: object) -> None:
    """Raise OptionError if an autoencoder, text encoder, network or scheduler is chosen."""
    if any(others):
        raise OptionError(
            "a model that is fine-tuned keeps its autoencoder, text encoder, network and "
            "scheduler; leave out these options"
        )


def load_to_train(name: str, device: str) -> tuple[Model, TextEncoder]:
    """Load a model and its text encoder, to fine-tune or distill it, or to train its upscaler."""
    base = load(name, device, "float32")
    if not isinstance(base.text, TextEncoder):
        what = (
            "no text encoder"
            if isinstance(base.text, NoText)
            else "two text encoders, like Stable Diffusion XL"
        )
        raise OptionError(f"{name} has {what}, so it cannot be used for training")
    if base.network.config.in_channels != base.space.config.latent_channels:
        raise OptionError(
            f"{name} has other inputs than latents (for inpainting or upscaling); it cannot be "
            "trained on"
        )
    return base, base.text


def _size(plan: Plan, base: Model | None) -> int:
    """Side of the pictures; if the plan gives no size, the side of the start model's pictures."""
    return base.size[0] if base and "size" not in plan.model_fields_set else plan.size


def _small_unet(size: int, space: AutoencoderKL | Pixels, text_width: int) -> dict[str, Any]:
    """Config of a small U-Net, for pictures of 64x64 pixels.

    It has two levels for 8x8 latents, or four for pixels. It attends to the text on levels of
    16x16 positions or fewer.
    """
    channels, widths, plain = (
        (space.config.latent_channels, [32, 64, 128, 256], 2)
        if isinstance(space, Pixels)
        else (space.config.latent_channels, [128, 256], 0)
    )
    looking = len(widths) - plain
    return {
        "down_block_types": ["DownBlock2D"] * plain + ["CrossAttnDownBlock2D"] * looking,
        "up_block_types": ["CrossAttnUpBlock2D"] * looking + ["UpBlock2D"] * plain,
        "sample_size": size // space.config.factor,
        "in_channels": channels,
        "out_channels": channels,
        "cross_attention_dim": text_width,
        "block_out_channels": widths,
        "layers_per_block": 1,
        "attention_head_dim": 4,
    }
