"""Fine-tune a text-to-image model on a few pictures of one's own: a LoRA.

The model's weights stay as they are; small matrices beside them are trained (Hu et al. 2021,
arXiv:2106.09685). What the model knew stays: at each step the changed model must also still answer
to other prompts as the unchanged one does, on pictures that this one made for them (after the prior
preservation of Ruiz et al. 2022, arXiv:2208.12242, section 3.2).
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
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
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import Made, walk
from sfumato.tasks.nearest import training_names
from sfumato.train.diffusion import DiffusionJob, check_kept, load_to_train
from sfumato.train.latents import Latents
from sfumato.train.loop import train
from sfumato.train.loss import denoising_loss
from sfumato.train.pack import pack
from sfumato.train.plan import (
    Event,
    Plan,
    check_size,
    identity,
    in_tenths,
    read_plan,
    skipped_lines,
)
from sfumato.types import Condition

KEPT = 256  # pictures of other prompts
KEPT_SHARE = 0.5  # how many of them are looked at beside each batch, against the batch's own
KEPT_WEIGHT = 4.0  # of their error, which is small, against that of the batch
WORD = re.compile(r"[a-z]{3,12}" + re.escape(SUFFIX))


class LowRank(nn.Module):
    """A weight and a change of low rank: ``W + B A``.

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
        """The changed weight; the weight itself while the change is off."""
        return weight + (self.up @ self.down).view_as(weight) if self.on else weight


def add_low_rank(network: UNet, rank: int) -> list[LowRank]:
    """Give each layer of a U-Net's blocks a change that is trained, and freeze all else."""
    network.requires_grad_(False)
    changes = []
    for name, layer in list(network.named_modules()):
        inside = name.startswith(("down_blocks", "mid_block", "up_blocks"))
        if inside and isinstance(layer, nn.Linear | nn.Conv2d):
            changes.append(LowRank(layer.weight, rank))
            parametrize.register_parametrization(layer, "weight", changes[-1], unsafe=True)
    return changes


def begin_at(network: UNet, path: Path) -> None:
    """Let the changes of a network begin at those of a file that :func:`save_lora` wrote.

    Raises
    ------
    ModelError
        If the file is for another network, or of another rank.
    """
    found = read_lora(lora_file(path))
    for name, layer in network.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        (change,), begun = layer.parametrizations["weight"], found.get(f"unet.{name}")
        if begun is None or begun.down.flatten(1).shape != change.down.shape:
            had = "none" if begun is None else len(begun.down)
            raise ModelError(
                f"{path} does not fit: {name} has a change of rank {len(change.down)} here, "
                f"{had} there"
            )
        change.down.data.copy_(begun.down.flatten(1))
        change.up.data.copy_(begun.up.flatten(1) * (begun.alpha / len(begun.down)))


def changes_of(network: UNet) -> dict[str, Change]:
    """What was trained, by the names of layers."""
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
    """The denoising objective on one's own pictures, and the model's own answers to other prompts.

    Parameters
    ----------
    model : Model
        Its U-Net is given the changes.
    data : Latents
        Prepared.
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

    def prepare(self, model: Model, seed: int) -> Iterator[tuple[str, int, int]]:
        """Make pictures of other prompts, to keep them."""
        texts = other_prompts(model, KEPT, seed)
        options = CreateOptions(seed=seed, best_of=1, batch=16)
        made: list[Image.Image] = []
        for event in walk(texts, options, model):
            if isinstance(event, Made):
                made.append(event.picture)
                yield "pictures of other prompts", len(made), len(texts)
        with torch.no_grad():
            self.kept = model.space.encode(image.to_tensor(made).to(model.device)).float()
        self.kept_tokens = model.text(texts, model.size)[0].tokens

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """The network without its changes, for the length of a block."""
        for change in self.changes:
            change.on = False
        try:
            yield
        finally:
            for change in self.changes:
                change.on = True

    def loss(self, rows: Tensor, random: Generator) -> Tensor:
        """Mean weighted loss on one's own pictures, and on those of other prompts against the
        unchanged model.
        """
        own = super().loss(rows, random)
        count = round(KEPT_SHARE * len(rows))
        if self.kept is None or self.kept_tokens is None or not count:
            return own
        device = self.module.conv_in.weight.device
        picked = torch.randint(len(self.kept), (count,), generator=random)
        condition = Condition(self.kept_tokens[picked].to(device))

        def answer(x: Tensor, corrupted: Any) -> Tensor:
            with torch.no_grad(), self.unchanged():
                out: Tensor = self.denoiser(corrupted.y, corrupted.sigma, condition)
                return out

        kept = denoising_loss(
            self.denoiser,
            self.kept[picked].to(device),
            self.corruption,
            condition,
            generator=random,
            teach=answer,
        )
        return own + KEPT_WEIGHT * kept


def other_prompts(model: Model, count: int, seed: int) -> list[str]:
    """Names of the model's training pictures, each with a style of the model if it has any; words
    of its vocabulary, if it does not say what it was trained on.
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
    """Train a LoRA of a model on captioned pictures; writes it in diffusers' format.

    The parameters are those of :func:`sfumato.train.diffusion.train_diffusion`; parts that belong
    to the model are refused.
    """
    plan, settings = read_plan("lora", data, output, config, given)
    check_kept(autoencoder, text, pixels, plan.network, plan.scheduler)
    start = start or "icons"
    begun, encoder = load_to_train(start)
    size = begun.size[0] if "size" not in plan.model_fields_set else plan.size
    unit = begun.space.config.factor * begun.network.config.unit
    check_size(size, unit, "the space's factor times the U-Net's halvings")
    yield f"reading {data}"
    pictures = pack(data, size, output / "cache", captions=True)
    yield from skipped_lines(pictures.skipped, pictures.notes)
    torch.manual_seed(settings.seed)
    found = Latents(pictures, begun.space, encoder, output / "cache")
    encoders = fingerprint(begun.space, encoder.clip)
    yield from in_tenths(found.prepare(encoders, states=True))
    plan = plan.model_copy(update={"previews": _previews(plan, pictures.captions)})
    job = LoraJob(begun, found, plan)
    yield from in_tenths(job.prepare(begun, settings.seed))
    about = {"start": fingerprint(begun.network), "encoders": encoders}
    about |= plan.model_dump(include={"shift", "text_noise", "rank"})
    known = identity(plan, data, begun.network.config, task="lora", **about)
    yield from train(job, settings, output, known)
    save_lora(changes_of(job.module), output / FILE)
    yield f'use it: sfumato create "{job.prompts[0]}" --model {start} --lora {output}'


def _previews(plan: Plan, captions: list[tuple[str, ...]]) -> list[str]:
    """Half of the pictures on a preview show what is learned, half what is to stay."""
    if "previews" in plan.model_fields_set:
        return plan.previews
    own = list(dict.fromkeys(c[0] for c in captions))[:4]
    return own + plan.previews[: 8 - len(own)]
