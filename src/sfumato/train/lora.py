"""Fine-tune a text-to-image model on a few custom pictures: a LoRA.

The model's weights are frozen; only small added matrices are trained (Hu et al. 2021,
arXiv:2106.09685). A second loss preserves what the model has learned: for other prompts, the
predictions must stay close to the predictions of the original model. The loss is computed on
pictures that the original model generated for these prompts (similar to the prior preservation of
Ruiz et al. 2022, arXiv:2208.12242, section 3.2).
"""

from __future__ import annotations

import contextlib
import random
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from sfumato import image
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import SUFFIX
from sfumato.denoiser.unet import UNet
from sfumato.errors import ModelError
from sfumato.hub.files import fingerprint
from sfumato.hub.load import Model
from sfumato.hub.lora import FILE, Change, lora_file, read_lora, save_lora
from sfumato.runtime import seeded
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import Made, stream
from sfumato.tasks.nearest import training_names
from sfumato.train.diffusion import DiffusionJob, check_kept, load_to_train
from sfumato.train.latents import Latents, cached
from sfumato.train.loop import train
from sfumato.train.loss import denoising_loss
from sfumato.train.pack import pack
from sfumato.train.plan import (
    Event,
    Plan,
    check_size,
    identity,
    read_plan,
    skipped_lines,
)
from sfumato.types import Condition, Progress

KEPT = 384  # generated pictures of other prompts
AT_ONCE = 16  # number of pictures that are generated at once
KEPT_SHARE = 0.5  # number of these pictures per batch, relative to the batch size
KEPT_WEIGHT = 8.0  # weight of the loss on these pictures, relative to the batch: this loss is small
WORD = re.compile(r"[a-z]{3,12}" + re.escape(SUFFIX))


class LowRank(nn.Module):
    """A low-rank update of a weight: ``W + B A``.

    Parameters
    ----------
    weight : Tensor, (outputs, inputs, ...)
    rank : int
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.on = True

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, or the weight itself while the update is off."""
        return weight + (self.up @ self.down).view_as(weight) if self.on else weight


def add_low_rank(network: UNet, rank: int) -> list[LowRank]:
    """Freeze a U-Net; add trainable low-rank updates to linear and conv layers in its blocks."""
    network.requires_grad_(False)
    changes = []
    for name, layer in list(network.named_modules()):
        inside = name.startswith(("down_blocks", "mid_block", "up_blocks"))
        if inside and isinstance(layer, nn.Linear | nn.Conv2d):
            changes.append(LowRank(layer.weight, rank))
            parametrize.register_parametrization(layer, "weight", changes[-1], unsafe=True)
    return changes


def begin_at(network: UNet, path: Path) -> None:
    """Initialize a network's low-rank updates from a file written by :func:`save_lora`.

    Raises
    ------
    ModelError
        If the file belongs to another network or has another rank.
    """
    found = read_lora(lora_file(path))
    for name, layer in network.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        (change,), initial = layer.parametrizations["weight"], found.get(f"unet.{name}")
        if initial is None or initial.down.flatten(1).shape != change.down.shape:
            had = "none" if initial is None else len(initial.down)
            raise ModelError(
                f"{path} does not fit: the update of {name} has rank {len(change.down)} here, "
                f"but {had} in the file"
            )
        change.down.data.copy_(initial.down.flatten(1))
        change.up.data.copy_(initial.up.flatten(1) * (initial.alpha / len(initial.down)))


def changes_of(network: UNet) -> dict[str, Change]:
    """Return the trained low-rank updates by layer name."""
    found = {}
    for name, layer in network.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        (change,), weight = layer.parametrizations["weight"], layer.parametrizations.weight.original
        down, up = change.down.detach(), change.up.detach()
        if weight.ndim == 4:
            down, up = down.view(-1, *weight.shape[1:]), up[..., None, None]
        found[name] = Change(down, up, float(len(down)))
    return found


class LoraJob(DiffusionJob):
    """The denoising objective on custom pictures, with prior preservation on other prompts.

    Parameters
    ----------
    model : Model
        Model to fine-tune; a copy of its U-Net gets the low-rank updates.
    data : Latents
        Latents and text states, after a call of ``prepare(..., states=True)``.
    plan : Plan
    """

    def __init__(self, model: Model, data: Latents, plan: Plan) -> None:
        network = model.network
        super().__init__(
            network.config, data, model.scheduler, plan.previews, plan.shift, plan.text_noise
        )
        self.module.load_state_dict(network.state_dict())
        self.changes = add_low_rank(self.module, plan.rank)
        self.kept: Tensor | None = None
        self.kept_tokens: Tensor | None = None

    def prepare(self, model: Model, key: str, seed: int) -> Iterator[Progress]:
        """Generate pictures of other prompts for prior preservation; `key` identifies the model."""
        texts = other_prompts(model, KEPT, seed)
        options = CreateOptions(seed=seed, best_of=1, batch=AT_ONCE)

        @torch.no_grad()
        def latents(start: int, end: int) -> Tensor:
            events = stream(texts[start:end], options, model)
            made = [event.picture for event in events if isinstance(event, Made)]
            return model.space.encode(image.to_tensor(made).to(model.device))

        (wide, tall), space = model.size, model.space.config
        shape = len(texts), space.latent_channels, tall // space.factor, wide // space.factor
        path = self.data.cache / "kept.npy"
        for done in cached(path, f"{key} {seed}", shape, latents, AT_ONCE):
            yield Progress("pictures of other prompts", done, len(texts))
        self.kept = torch.from_numpy(np.load(path)).float().to(model.device)
        self.kept_tokens = model.text(texts, model.size)[0].tokens

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Turn the low-rank updates off within a ``with`` block."""
        for change in self.changes:
            change.on = False
        try:
            yield
        finally:
            for change in self.changes:
                change.on = True

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean loss on custom pictures, plus the loss for prior preservation.

        Both losses are weighted by noise level.

        On pictures of other prompts, the second loss compares the predictions with and without the
        low-rank updates.
        """
        own = super().loss(rows, random)
        count = round(KEPT_SHARE * len(rows))
        if self.kept is None or self.kept_tokens is None or not count:
            return own
        device = self.module.conv_in.weight.device
        picked = torch.randint(len(self.kept), (count,), generator=random)
        condition = Condition(self.kept_tokens[picked].to(device))

        def output(x: Tensor, corrupted: Any) -> Tensor:
            with torch.no_grad(), self.unchanged():
                out: Tensor = self.denoiser(corrupted.y, corrupted.sigma, condition)
                return out

        kept = denoising_loss(
            self.denoiser,
            self.kept[picked].to(device),
            self.corruption,
            condition,
            generator=random,
            teach=output,
        )
        return own + KEPT_WEIGHT * kept


def other_prompts(model: Model, count: int, seed: int) -> list[str]:
    """Sample prompts: names of the model's training pictures, with styles if the model has styles.

    If the model does not list its training pictures, words of its vocabulary are used.
    """
    assert isinstance(model.text, TextEncoder)
    words = sorted({row["name"] for row in training_names(model.path)})
    if not words:
        vocabulary = model.text.tokenizer.tokenizer.get_vocab()
        words = sorted(w.removesuffix(SUFFIX) for w in vocabulary if WORD.fullmatch(w))
    drawn = random.Random(seed)
    styles = list(model.defaults.styles.values()) or [""]
    pairs = ((drawn.choice(words), drawn.choice(styles)) for _ in range(count))
    return [f"{word}, {style}" if style else f"a {word}" for word, style in pairs]


def train_lora(
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
    """Train a LoRA of a model on captioned pictures; write it in diffusers' format.

    The parameters are the same as in :func:`sfumato.train.diffusion.train_diffusion`, but `start`
    is the bundled model ``icons`` by default. Parameters that replace a part of the model raise an
    error.
    """
    plan, settings = read_plan("lora", data, output, config, given)
    check_kept(autoencoder, text, pixels, plan.network, plan.scheduler)
    start = start or "icons"
    base, encoder = load_to_train(start, settings.device)
    size = base.size[0] if "size" not in plan.model_fields_set else plan.size
    unit = base.space.config.factor * base.network.config.unit
    check_size(size, unit, "the space's factor times the U-Net's downsampling factor")
    yield f"reading {data}"
    pictures = yield from pack(data, size, output / "cache", captions=True)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    found = Latents(pictures, base.space, encoder, output / "cache")
    encoders = fingerprint(base.space, encoder.clip)
    yield from found.prepare(encoders, states=True)
    plan = plan.model_copy(update={"previews": _previews(plan, pictures.captions)})
    with seeded(settings.seed):
        job = LoraJob(base, found, plan)
    about = {"start": fingerprint(base.network), "encoders": encoders}
    yield from job.prepare(base, f"{about['start']} {encoders}", settings.seed)
    about |= plan.model_dump(include={"shift", "text_noise", "rank"})
    known = identity(plan, pictures.digest, base.network.config, task="lora", **about)
    yield from train(job, settings, output, known)
    save_lora(changes_of(job.module), output / FILE)
    prompt = next(iter(job.prompts), pictures.captions[0][0])
    command = ["sfumato", "create", prompt, "--model", start, "--lora", str(output)]
    yield f"use it: {shlex.join(command)}"


def _previews(plan: Plan, captions: list[tuple[str, ...]]) -> list[str]:
    """Prompts of the previews: up to four training captions, then prompts of other pictures."""
    if "previews" in plan.model_fields_set:
        return plan.previews
    own = list(dict.fromkeys(c[0] for c in captions))[:4]
    return own + plan.previews[: 8 - len(own)]
