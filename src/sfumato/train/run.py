"""The training commands: from data on disk to a folder on disk, as a stream of notes and progress.

A config file holds a network's config and training settings: ``{"network": {...}, "settings": {...}, ...}``; what the
command line gives wins. The same command again resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.matcher import Matcher, MatcherConfig
from sfumato.condition.text import NoText, TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.config import Config
from sfumato.denoiser.denoiser import Denoiser
from sfumato.denoiser.restorer import Restorer, RestorerConfig
from sfumato.denoiser.unet import UNet, UNetConfig
from sfumato.errors import DataError, OptionError
from sfumato.hub.config import Defaults, SchedulerConfig
from sfumato.hub.files import fingerprint, network_from, outline, read_json
from sfumato.hub.load import BUNDLED, Model, bundled, load, restorer_folder
from sfumato.hub.save import save_index, save_network, save_scheduler, save_text
from sfumato.space.kl import AutoencoderConfig, AutoencoderKL
from sfumato.space.pixels import Pixels
from sfumato.train.autoencoder import AutoencoderJob
from sfumato.train.diffusion import DiffusionJob
from sfumato.train.latents import Captions, Latents
from sfumato.train.loop import Progress, train
from sfumato.train.loss import vivid
from sfumato.train.match import MatchJob
from sfumato.train.pack import pack, state
from sfumato.train.pairs import PairJob, paired, read_pairs
from sfumato.train.restorer import LONGEST, RestorerJob, read_photos
from sfumato.train.settings import TrainSettings
from sfumato.train.text import Phrases, TextJob

Event = Progress | str
C = TypeVar("C", bound=Config)


class Plan(Config):
    """A training config file."""

    network: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    size: int = Field(64, ge=8)  # side of the pictures in pixels
    vocabulary: int = Field(8192, ge=516)  # tokens of a new tokenizer
    scheduler: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    corruption: str = ""  # what a restorer shall undo, alternatives between bars
    longest: int = Field(LONGEST, ge=8)  # side that photos are shrunk to before a restorer is trained on them
    gray: float = Field(0.25, ge=0, le=1)  # share of a restorer's batches that are gray pictures
    turned: bool = True  # whether a restorer's crops are turned by right angles
    vivid: bool = False  # whether a restorer's error counts more where there is color
    teacher: str = ""  # restorer whose answers, the mean of several views, a restorer learns besides the pictures
    shift: float = Field(1.0, gt=0)  # above 1 trains text to image more at high noise, where the text decides
    text_noise: float = Field(0.0, ge=0)  # deviation of noise on text states in diffusion training, in units of theirs
    previews: list[str] = ["a red apple", "a dog", "a house", "a car", "a tree", "a smiling face", "a fish", "a star"]


# Steps and batch where nobody says any: minutes of two CPU cores, but for a U-Net from the beginning, which takes hours.
USUAL = {
    "text": (3000, 256), "autoencoder": (8000, 16), "diffusion": (12_000, 64), "diffusion from a model": (2000, 64),
    "matcher": (1500, 256), "restorer": (4000, 8),
}  # fmt: skip


def _plan(task: str, data: Path, output: Path, path: Path | None, given: Mapping[str, Any]) -> tuple[Plan, TrainSettings]:
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise OptionError(f"{output} lies in {data}, where its previews would become pictures to train on; give another --output")
    plan = Plan.read(read_json(path), str(path)) if path else Plan()
    usual = dict(zip(("steps", "batch"), USUAL[task], strict=True))
    return plan, TrainSettings.read({**usual, **plan.settings, **given}, "training settings")


def _about(plan: Plan, data: Path, network: Config, **more: Any) -> dict[str, Any]:
    """What a run depends on besides its settings: a checkpoint in the folder must agree."""
    return {"data": state(data), "network": network.model_dump(mode="json"), "size": plan.size, **more}


def _network(kind: Callable[[C], nn.Module], config: type[C], values: Mapping[str, Any]) -> C:
    """A network's config, refused if its numbers make no network: before the data are read."""
    found = config.read(values, "network")
    outline(kind, found, "network")
    return found


def _skipped(skipped: list[str], notes: list[str] | None = None) -> Iterator[str]:
    """What was left out, and what was guessed; ten lines of each at most."""
    for title, lines in ((f"skipped {len(skipped)} pictures", skipped), ("read with doubt", notes or [])):
        if lines:
            shown = "\n  ".join(lines[:10])
            more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
            yield f"{title}:\n  {shown}{more}"


def train_text(data: Path, output: Path, config: Path | None, given: Mapping[str, Any], start: Path | None = None) -> Iterator[Event]:
    """Distil a text encoder; writes ``text_encoder/`` and ``tokenizer/``.

    With `start`, a bundled name or a folder, that one learns more words: its states of the texts marked as kept stay.
    """
    plan, settings = _plan("text", data, output, config, given)
    phrases = Phrases.read(data)
    begun = text_encoder(start) if start else None
    if begun is not None and (plan.network or begun.clip.config.with_projection):
        raise OptionError("a text encoder that is trained on keeps its network, which has no projection; leave network out")
    length = int(plan.network.get("max_position_embeddings", 32))
    if begun is None and not (output / "tokenizer" / "vocab.json").exists():
        yield f"learning {plan.vocabulary} tokens from {len(phrases.texts)} phrases"
        CLIPTokenizer.train(phrases.texts, plan.vocabulary, length).save(output / "tokenizer")
    tokenizer = begun.tokenizer if begun else CLIPTokenizer.load(output / "tokenizer")
    marks = {"bos_token_id": tokenizer.begin, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad}
    taught = {"projection_dim": phrases.embeddings.shape[1], "with_projection": True}
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_act": "gelu"}
    network = {**shape, "max_position_embeddings": length, **plan.network, **marks, "vocab_size": tokenizer.end + 1}
    fresh = _network(CLIPText, CLIPTextConfig, {**network, "architectures": ["CLIPTextModel"]})
    known = (begun.clip.config if begun else fresh).model_copy(update=taught)
    torch.manual_seed(settings.seed)
    job = TextJob(known, tokenizer, phrases, begun.clip if begun else None)
    about = {"vocabulary": plan.vocabulary, "start": fingerprint(begun.clip) if begun else None}
    yield from train(job, settings, output, _about(plan, data, job.module.config, task="text", **about))
    plain = CLIPText(job.module.config.model_copy(update={"with_projection": False}))  # the projection served the teacher only
    plain.load_state_dict({k: v for k, v in job.module.state_dict().items() if not k.startswith("text_projection")})
    save_text(plain, tokenizer, output)


def train_autoencoder(data: Path, output: Path, config: Path | None, given: Mapping[str, Any]) -> Iterator[Event]:
    """Train the first stage; writes its config and weights."""
    plan, settings = _plan("autoencoder", data, output, config, given)
    network = _network(AutoencoderKL, AutoencoderConfig, {**_small_autoencoder(plan.size), **plan.network})
    _check_size(plan.size, network.factor, "the autoencoder's factor")
    yield f"reading {data}"
    pictures = pack(data, plan.size, output / "cache", captions=False)
    yield from _skipped(pictures.skipped, pictures.notes)
    torch.manual_seed(settings.seed)
    job = AutoencoderJob(network, pictures)
    yield from train(job, settings, output, _about(plan, data, job.module.config, task="autoencoder"))
    save_network(job.module, output)


def _small_autoencoder(size: int) -> dict[str, Any]:
    levels = 4
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return {
        **kinds,
        "block_out_channels": [16, 32, 64, 128],
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 16,
        "sample_size": size,
    }


def train_diffusion(
    data: Path, output: Path, autoencoder: Path | None, text: Path | None, config: Path | None, given: Mapping[str, Any], start: str | None = None,
    *, pixels: bool = False,
) -> Iterator[Event]:  # fmt: skip
    """Train text-to-image diffusion, in the latents of an autoencoder or in `pixels`; writes a whole model folder.

    With `start`, a bundled name or a model, its U-Net is trained on, with its own autoencoder and text encoder.
    """
    plan, settings = _plan("diffusion from a model" if start else "diffusion", data, output, config, given)
    begun, space, encoder = _grounds(autoencoder, text, plan, start, pixels=pixels)
    size = _size(plan, begun)
    small = _small_unet(size, space, encoder.clip.config.hidden_size)
    network = begun.network.config if begun else _network(UNet, UNetConfig, {**small, **plan.network})
    _check_size(size, space.config.factor * network.unit, "the space's factor times the U-Net's halvings")
    yield f"reading {data}"
    pictures = pack(data, size, output / "cache", captions=True)
    yield from _skipped(pictures.skipped, pictures.notes)
    scheduler = begun.scheduler if begun else SchedulerConfig.read({**STABLE_DIFFUSION, **plan.scheduler}, "scheduler")
    torch.manual_seed(settings.seed)
    known = begun.defaults.model_dump(mode="json", exclude_defaults=True) if begun else {}
    if begun and begun.size != (size, size):
        known["size"] = [size, size]
    defaults = Defaults.read({**known, **plan.defaults}, "defaults")
    found = Latents(pictures, space, encoder, output / "cache")
    encoders = fingerprint(space, encoder.clip)
    yield from _prepared(found.prepare(encoders, states=True, own_scale=begun is None))
    job = DiffusionJob(network, found, scheduler, plan.previews, plan.shift, plan.text_noise)
    if begun is not None:
        job.module.load_state_dict(begun.network.state_dict())
    about = {"scheduler": scheduler.model_dump(mode="json"), "shift": plan.shift, "start": start, "encoders": encoders, "text_noise": plan.text_noise}
    yield from train(job, settings, output, _about(plan, data, network, task="diffusion", **about))
    save_network(job.module, output / "unet")
    if isinstance(space, AutoencoderKL):
        save_network(space, output / "vae")
    save_text(encoder.clip, encoder.tokenizer, output)
    save_scheduler(scheduler, output / "scheduler")
    if begun is not None and begun.matcher is not None:
        save_network(begun.matcher, output / "matcher")
    save_index(output, defaults, pixels=isinstance(space, Pixels))


def _grounds(
    autoencoder: Path | None, text: Path | None, plan: Plan, start: str | None, *, pixels: bool
) -> tuple[Model | None, AutoencoderKL | Pixels, TextEncoder]:  # fmt: skip
    """What a U-Net is trained on: the model to begin with, if there is one; the space; the text encoder."""
    if start is None:
        if (autoencoder is None) != pixels:
            raise OptionError("give --autoencoder (train autoencoder makes one) or --pixels; or --start, a model to train on")
        space = Pixels() if autoencoder is None else network_from(AutoencoderKL, AutoencoderConfig, autoencoder).eval()
        return None, space, text_encoder(text or Path("icons"))
    if autoencoder or pixels or text or plan.network or plan.scheduler:
        raise OptionError("a model that is trained on keeps its autoencoder, text encoder, network and scheduler; leave those out")
    begun, encoder = _begun(start)
    return begun, begun.space, encoder


def _begun(name: str) -> tuple[Model, TextEncoder]:
    """A model to train on from, or a part for."""
    begun = load(name, "cpu", "float32")
    if not isinstance(begun.text, TextEncoder):
        what = "no text encoder" if isinstance(begun.text, NoText) else "two text encoders, as Stable Diffusion XL"
        raise OptionError(f"{name} has {what}; such models cannot be trained on")
    if begun.network.config.in_channels != begun.space.config.latent_channels:
        raise OptionError(f"{name} sees more than latents (it fills or enlarges); such models cannot be trained on")
    return begun, begun.text


def _size(plan: Plan, begun: Model | None) -> int:
    """Side of the pictures: the plan's, or where it names none that of the model."""
    return begun.size[0] if begun and "size" not in plan.model_fields_set else plan.size


def _check_size(size: int, unit: int, what: str) -> None:
    if size % unit:
        raise DataError(f"size {size} is not a multiple of {unit}, {what}")


def train_matcher(data: Path, output: Path, text: Path, config: Path | None, given: Mapping[str, Any]) -> Iterator[Event]:
    """Train what tells how well a picture matches a text; writes ``matcher/``, and into a model's folder makes it a part of it."""
    plan, settings = _plan("matcher", data, output, config, given)
    encoder = text_encoder(text)
    yield f"reading {data}"
    pictures = pack(data, plan.size, output / "cache", captions=True)
    yield from _skipped(pictures.skipped, pictures.notes)
    torch.manual_seed(settings.seed)
    network = _network(Matcher, MatcherConfig, {"size": plan.size, "text_width": encoder.pooled([""]).shape[1], **plan.network})
    found = Captions(pictures, encoder, output / "cache")
    yield from _prepared(found.prepare(fingerprint(encoder.clip), ends=True))
    job = MatchJob(network, found)
    about = _about(plan, data, job.module.matcher.config, task="matcher", text=fingerprint(encoder.clip))
    yield from train(job, settings, output / "matcher", about)
    save_network(job.module.matcher, output / "matcher")


def text_encoder(folder: Path) -> TextEncoder:
    """The text encoder of a folder that ``train text`` wrote, of a model, or of a bundled one's name."""
    folder = BUNDLED / folder if str(folder) in bundled() else folder
    clip = network_from(CLIPText, CLIPTextConfig, folder / "text_encoder").eval()
    return TextEncoder(clip, CLIPTokenizer.load(folder / "tokenizer"))


def _prepared(steps: Iterator[tuple[str, int, int]]) -> Iterator[Event]:
    last = ""
    for what, done, total in steps:
        if (note := f"{what}: {10 * done // total * 10} %") != last:
            yield (last := note)


def _restorer(name: str | Path) -> Restorer:
    """A bundled restorer, or one's own."""
    return network_from(Restorer, RestorerConfig, restorer_folder(name)).channels_last()


def train_restorer(
    data: Path, output: Path, corruption: str | None, config: Path | None, given: Mapping[str, Any], start: Path | None = None
) -> Iterator[Event]:
    """Train a restorer for corruptions separated by bars, or on pairs; writes its config and weights.

    With `start`, a restorer's folder or the name of a bundled one, its network is trained on; if the plan names a network of
    another size, that one starts from the layers that both have. If it names a teacher, its answers are learnt from, too.
    """
    plan, settings = _plan("restorer", data, output, config, given)
    begun = _restorer(start) if start else None
    network = begun.config if begun and not plan.network else _network(Restorer, RestorerConfig, plan.network)
    corruption = corruption or plan.corruption
    teacher = Denoiser(_restorer(plan.teacher).eval(), "direct") if plan.teacher else None
    pairs = paired(data)
    if not corruption and not pairs:
        raise OptionError("say what it shall undo: --corruption 'noise:0-50 | mask:strokes', or give pairs in clean/ and dirty/")
    if corruption and pairs:
        raise OptionError(f"{data} holds pairs, whose corruption is what happened to them; leave {corruption} out")
    yield f"reading {data}"
    torch.manual_seed(settings.seed)
    measure = vivid if plan.vivid else None
    if pairs:
        photos, skipped = read_pairs(data, plan.size)
        job: RestorerJob = PairJob(network, photos, (), plan.size, turned=plan.turned, measure=measure, teacher=teacher)
    else:
        photos, skipped, often = read_photos(data, plan.size, plan.longest)
        job = RestorerJob(network, photos, corruption.split("|"), plan.size, plan.gray, plan.turned, measure, often, teacher)
    yield from _skipped(skipped)
    if begun is not None:
        fresh = {k: v.shape for k, v in job.module.state_dict().items()}
        shared = {k: v for k, v in begun.state_dict().items() if v.shape == fresh.get(k)}
        job.module.load_state_dict(shared, strict=False)
        yield f"starts from {len(shared)} of the {len(fresh)} layers of {start}"
    asked = {"corruption": "pairs" if pairs else corruption, **plan.model_dump(include={"longest", "gray", "turned", "vivid"})}
    if teacher is not None:
        asked["teacher"] = fingerprint(teacher)
    yield from train(job, settings, output, _about(plan, data, network, task="restorer", start=start, **asked))
    save_network(job.module, output)


STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


def _small_unet(size: int, space: AutoencoderKL | Pixels, text_width: int) -> dict[str, Any]:
    """For pictures of 64 pixels: two levels of latents 8 wide, or four of pixels; the text is looked at where a side is 16 or less."""
    channels, widths, plain = (3, [32, 64, 128, 256], 2) if isinstance(space, Pixels) else (space.config.latent_channels, [128, 256], 0)
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
