"""Train the matcher: within a batch, a picture must be nearest to its own text, and vice versa."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor, nn

from sfumato import image
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.errors import OptionError
from sfumato.hub.files import fingerprint
from sfumato.hub.save import save_network
from sfumato.runtime import seeded
from sfumato.train.latents import Captions
from sfumato.train.loop import train
from sfumato.train.pack import pack
from sfumato.train.plan import (
    Event,
    checked,
    identity,
    read_plan,
    skipped_lines,
    text_encoder,
)


class MatchJob:
    """The contrastive objective of CLIP (Radford et al. 2021, section 2.3).

    Pictures are shifted, scaled, tinted and blurred a little at random, so that the network depends
    on content rather than style and can judge generated pictures. Two pictures that share a caption
    are not negatives of each other.

    Parameters
    ----------
    config : MatcherConfig
    data : Captions
        Captioned pictures, after a call of ``prepare(..., ends=True)``.
    """

    def __init__(self, config: MatcherConfig, data: Captions) -> None:
        self.module, self.data, self.weights = _Pair(config), data, data.weights

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean of the cross-entropies from picture to text and from text to picture, in nats."""
        places, device = self.data.draw(rows, random), self.module.scale.device
        with torch.autocast(device.type, enabled=False):
            x = augment(self.data.pixels(rows), random).to(device)
            ends = self.data.pooled(places).to(device)
        scores = (
            self.module.scale.exp()
            * self.module.matcher.pictures(x)
            @ self.module.matcher.texts(ends).T
        )
        said = [set(self.data.choices[r]) for r in rows.tolist()]
        alike = torch.tensor(
            [
                [k != j and place in said[k] for j, place in enumerate(places)]
                for k in range(len(rows))
            ],
            device=device,
        )
        scores = scores.float().masked_fill(alike | alike.T, -math.inf)
        own = torch.arange(len(rows), device=device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    def preview(self) -> Image.Image:
        """Return rows of pictures: a picture, then the pictures nearest to its first caption."""
        matcher, count = self.module.matcher, min(len(self.data.choices), 2000)
        x = self.data.pixels(torch.arange(count)).to(self.module.scale.device)
        directions = torch.cat([matcher.pictures(part) for part in x.split(256)])
        asked = list(range(0, count, max(1, count // 8)))[:8]
        said = matcher.texts(self.data.pooled([self.data.choices[r][0] for r in asked]).to(x))
        found = (said @ directions.T).topk(min(9, count)).indices
        shown = torch.cat(
            [torch.cat([x[[row]], x[near]]) for row, near in zip(asked, found, strict=True)]
        )
        return image.sheet(image.to_pictures(shown), columns=found.shape[1] + 1)


class _Pair(nn.Module):
    """The matcher and the scale of its scores, which is needed in training only."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.matcher = Matcher(config)
        # Radford et al. 2021, section 2.5
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def augment(x: Tensor, random: Generator) -> Tensor:
    """Augment pictures (B, 3, S, S) at random.

    They are shifted by up to 7.5 % of the side, scaled by up to 15 % (20 % in width) and tinted:
    each channel is multiplied by 0.9 to 1.1 and shifted by up to 0.08. Some are blurred; all get a
    little noise.
    """
    count = len(x)
    draw = torch.rand((count, 12), generator=random) * 2 - 1
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = 1 + 0.15 * draw[:, 0] + 0.05 * draw[:, 1]
    matrix[:, 1, 1] = 1 + 0.15 * draw[:, 0]
    matrix[:, :, 2] = 0.15 * draw[:, 2:4]
    x = F.grid_sample(
        x,
        F.affine_grid(matrix, list(x.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    coarse = F.interpolate(
        F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear", align_corners=False
    )
    x = x.lerp(coarse, draw[:, 4].clamp_min(0)[:, None, None, None])
    x = x * (1 + 0.1 * draw[:, 5:8, None, None]) + 0.08 * draw[:, 8:11, None, None]
    return x + 0.06 * draw[:, 11].abs()[:, None, None, None] * torch.randn(
        x.shape, generator=random
    )


def train_matcher(
    data: Path, output: Path, text: Path, config: Path | None, given: Mapping[str, Any]
) -> Iterator[Event]:
    """Train a network that scores how well a picture matches a text; write it to ``matcher/``.

    If `output` is a model's folder, the matcher becomes part of the model.
    """
    plan, settings = read_plan("matcher", data, output, config, given)
    if settings.batch < 2:
        raise OptionError("--batch must be at least 2: a text is compared with several pictures")
    encoder = text_encoder(text)
    network = checked(
        Matcher,
        MatcherConfig,
        {"size": plan.size, "text_width": encoder.pooled([""]).shape[1], **plan.network},
    )
    yield f"reading {data}"
    pictures = yield from pack(data, plan.size, output / "cache", captions=True)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    found = Captions(pictures, encoder, output / "cache")
    yield from found.prepare(fingerprint(encoder.clip), ends=True)
    with seeded(settings.seed):
        job = MatchJob(network, found)
    about = identity(
        plan,
        pictures.digest,
        job.module.matcher.config,
        task="matcher",
        text=fingerprint(encoder.clip),
    )
    yield from train(job, settings, output / "matcher", about)
    save_network(job.module.matcher, output / "matcher")
