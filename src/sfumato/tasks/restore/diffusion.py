"""Restore with a diffusion model.

The photo is treated as a measurement of the picture that is wanted: a linear operator (a mask,
grayscale or downscaling) was applied to this picture, and noise may have been added. At every step
above the noise level of the photo, the denoised estimate of the model is made consistent with the
measurement.

The model generates the parts that were not measured. A prompt guides the model, and each seed gives
another result. In pixel space, the estimate agrees exactly with the measurement at every step. The
estimate of a latent model is decoded, made consistent and encoded again. Since encoding loses a
little, exact agreement is reached only at the end, by a correction of the decoded picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.condition.text import NoText
from sfumato.corruption.base import Compose
from sfumato.corruption.color import Grayscale
from sfumato.corruption.mask import Mask
from sfumato.corruption.resample import Downscale
from sfumato.data.photo import Photo
from sfumato.denoiser.consistency import consistent
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.runtime import Streams, random_seed
from sfumato.sampler.schedule import initial
from sfumato.tasks.restore import masks
from sfumato.tasks.restore.color import with_luminance
from sfumato.tasks.restore.measure import measured_noise
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.report import generated_head
from sfumato.tasks.restore.run import Restored, with_clear
from sfumato.tasks.restore.stage import Engine, noise_network
from sfumato.types import Linear, Progress

# largest result in pixels; it is sampled as a whole, since prompt and layout concern the whole
# picture
LARGEST = 4_000_000


def diffuse(
    photo: Photo, options: RestoreOptions, model: Model, networks: Engine
) -> Iterator[Progress | Restored]:
    """Restore a photo with a diffusion model; yield progress, then one result per sample.

    Parameters
    ----------
    photo : Photo
    options : RestoreOptions
    model : Model
        Any text-to-image model with as many input channels as output channels.
    networks : Engine
        Finds scratches and measures noise.

    Raises
    ------
    OptionError
        For damage that is not linear (JPEG artifacts, or `clean`), options that only the
        restoration networks have (`hints`, `like`, `saturation`, `ensemble`), a model that does not
        fit, and a result that is too large.
    """
    refuse_network_options(options)
    check_prompt(options, model)
    if model.network.config.in_channels != model.network.config.out_channels:
        raise OptionError(
            f"{model.name} needs more inputs than a picture; give a text-to-image model"
        )
    pixels = math.prod(photo.size) * (options.enlarge or 1) ** 2
    if pixels > LARGEST:
        raise OptionError(
            f"{pixels / 1e6:.1f} megapixels are too many at once: the diffusion engine takes up to "
            f"{LARGEST / 1e6:g}; --engine auto takes any size"
        )
    gaps = yield from masks.find(photo, options, networks.damage, alone=options.only_fills)
    noise = measured_noise(photo, options, networks.noise_levels, noise_network(networks))
    yield from _Job(photo, options, model, gaps, noise.level).run()


def refuse_network_options(options: RestoreOptions) -> None:
    """Refuse options that only the restoration networks have."""
    of_networks = (options.clean, options.hints, options.ensemble, options.like)
    if options.dejpeg is not None or any(of_networks) or options.saturation != 1:
        raise OptionError(
            "a text-to-image model undoes only linear damage; --dejpeg, --clean, --hint, --like, "
            "--saturation and --ensemble need the restoration networks: leave --model and --engine "
            "out"
        )


def check_prompt(options: RestoreOptions, model: Model) -> None:
    """Refuse a prompt for a model that takes no text."""
    if options.prompt and isinstance(model.text, NoText):
        raise OptionError(f"{model.name} takes no text; leave --prompt out")


class _Job:
    """One photo: its measurement, the linear operator of the measurement, and the model."""

    def __init__(
        self,
        photo: Photo,
        options: RestoreOptions,
        model: Model,
        gaps: NDArray[np.bool_] | None,
        level: float,
    ) -> None:
        self.photo, self.options, self.model, self.gaps = photo, options, model, gaps
        self.level = level  # standard deviation of the noise
        self.gray = options.colorize or photo.values.shape[2] == 1
        factor, (wide, tall) = options.enlarge or 1.0, photo.size
        self.size = (round(tall * factor), round(wide * factor))
        rows, columns = (_padded(n, factor, model.unit) for n in (tall, wide))
        self.full = (round(rows * factor), round(columns * factor))
        x = np.pad(
            photo.opaque().frame(),
            ((0, 0), (0, rows - tall), (0, columns - wide)),
            mode="symmetric",
        )
        gone = np.pad(
            np.zeros((tall, wide), bool) if gaps is None else gaps,
            ((0, rows - tall), (0, columns - wide)),
            mode="symmetric",
        )
        known = Mask(torch.from_numpy((~gone).astype(np.float32)).to(model.device))
        y = torch.from_numpy(x)[None].to(model.device)
        y = Grayscale().apply(y) if self.gray and y.shape[1] == 3 else y
        parts: list[Linear] = [Downscale(factor, size=self.full)] if options.enlarge else []
        parts += [Grayscale()] if self.gray else []
        parts += [known] if gaps is not None else []
        self.operator: Linear = parts[0] if len(parts) == 1 else Compose(tuple(parts))
        self.y = known.apply(y)
        # noise alone is removed without a measurement operator, also from a gray photo
        self.linear = bool(options.enlarge or options.colorize or gaps is not None)

    @torch.inference_mode()  # active while the generator runs, not between its steps
    def run(self) -> Iterator[Progress | Restored]:
        """Sample, and convert the samples to the photo's format."""
        model, how = self.model, self.options
        seed = random_seed() if how.seed is None else how.seed
        seeds = [seed + k for k in range(how.samples)]
        streams = Streams(seeds)
        sigmas = self.sigmas()
        denoise = self.agreeing()
        x = self.start(streams, float(sigmas[0]))
        sampler = model.scheduler.bound_sampler(None, streams.like, len(sigmas) - 1)
        for step in sampler(denoise, x, sigmas):
            x = step.x
            yield Progress("steps", step.index + 1, len(sigmas) - 1)
        made = self.decode(x)
        if self.linear and self.options.denoise is None:
            made = made + self.operator.pinv(self.y - self.operator.apply(made))
        yield from (self.restored(m, s) for m, s in zip(made, seeds, strict=True))

    def sigmas(self) -> Tensor:
        """The noise levels of the run.

        If only noise is to be removed, these are the photo's own level and the levels below it.
        """
        model = self.model
        steps = self.options.steps or model.defaults.steps
        table = model.denoiser.times.sigmas
        sigmas: Tensor = model.scheduler.default_sigmas(table, steps, model.scheduler.sampler)
        if self.linear:
            return sigmas
        level = max(model.space.deviation * self.level, float(table[0]))
        return torch.cat([sigmas.new_tensor([level]), sigmas[sigmas < level]])

    def start(self, streams: Streams, top: float) -> Tensor:
        """The initial latents: Gaussian noise; to remove noise alone, the encoded photo plus a
        little Gaussian noise.
        """
        model = self.model
        factor = model.space.config.factor
        shape = (
            self.options.samples,
            model.space.config.latent_channels,
            self.full[0] // factor,
            self.full[1] // factor,
        )
        noise = streams.normal(shape).to(model.device)
        if self.linear:
            return initial(noise, top)
        # The photo's own noise serves as most of the noise; a little noise from each seed makes the
        # results differ.
        return self.encode(self.y.expand(self.options.samples, 3, -1, -1)) + 0.3 * top * noise

    def agreeing(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided denoiser, with data consistency above the measurement's noise level."""
        model, how = self.model, self.options
        size = (self.full[1], self.full[0])
        condition, negative = (
            model.text([text] * how.samples, size)[0] for text in (how.prompt, "")
        )
        scale = model.defaults.guidance_scale if how.guidance_scale is None else how.guidance_scale
        denoise = model.guided(condition, negative, scale if how.prompt else 1.0)
        if not self.linear:
            return denoise
        picture = consistent(
            lambda z, sigma: self.decode(denoise(z, sigma)).clamp(-1, 1), self.operator, self.y
        )

        def agree(z: Tensor, sigma: Tensor) -> Tensor:
            if float(sigma[0]) < model.space.deviation * self.level:
                return denoise(z, sigma)
            return self.encode(picture(z, sigma))

        return agree

    def encode(self, x: Tensor) -> Tensor:
        """Encode pictures to latents."""
        return self.model.space.encode(x).float()

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents to pictures."""
        return self.model.space.decode(z).float()

    def restored(self, made: Tensor, seed: int) -> Restored:
        """One result as a photo, with its report."""
        photo, options, whole = self.photo, self.options, made[None].clamp(-1, 1)
        if self.gray:
            light = Grayscale().apply(made[None]).clamp(-1, 1)
            # colors outside [-1, 1] are desaturated, since clipping would change the luminance
            whole = with_luminance(made[None], light) if options.colorize else light
        disagreement = 0.0
        if self.linear:
            difference = self.operator.apply(whole.expand(-1, 3, -1, -1)) - self.y
            disagreement = float(difference.abs().max()) * 127.5
        x = whole[0, :, : self.size[0], : self.size[1]]
        values = photo.stored(x.cpu().numpy())
        fills = self.gaps is not None and not (
            options.enlarge or options.colorize or options.denoise is not None
        )
        if fills and self.gaps is not None:
            values = np.where(self.gaps[..., None], values, photo.values)
        report = generated_head(options, self.model.sha256, "diffusion", seed)
        report["largest_disagreement"] = round(disagreement, 2)
        if options.denoise is not None:
            report["sigma"] = round(self.level * 127.5, 2)
        if fills and self.gaps is not None:
            report["made_anew"] = round(float(self.gaps.mean()), 6)
            report["largest_change_elsewhere"] = int(
                np.abs(values.astype(int) - photo.values)[~self.gaps].max(initial=0)
            )
        return Restored(with_clear(photo.with_values(values), photo), report, self.gaps)


def _padded(size: int, factor: float, unit: int) -> int:
    """The smallest size, at least `size`, that is a multiple of `unit` after enlarging.

    Raises
    ------
    OptionError
        If no size nearby is a multiple.
    """
    for n in range(size, size + 8 * unit + 1):
        large = n * factor
        if abs(large - round(large)) < 1e-9 and round(large) % unit == 0:
            return n
    raise OptionError(
        f"--enlarge {factor:g} leads to no size that is a multiple of {unit}, which this model "
        "needs; try 2, 3 or 4"
    )
