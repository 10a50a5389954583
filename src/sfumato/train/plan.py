"""Shared by all training commands: config files, messages, and checks of what a run depends on.

A config file holds a network's config and training settings: ``{"network": {...}, "settings":
{...}, ...}``. Values of the command line take precedence. To resume a run, give the same command
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field
from torch import nn

from sfumato.condition.clip import CLIPText, CLIPTextConfig
from sfumato.condition.text import TextEncoder
from sfumato.condition.tokenizer import CLIPTokenizer
from sfumato.config import Config
from sfumato.errors import ConfigError, DataError, OptionError
from sfumato.hub.catalog import BUNDLED, bundled
from sfumato.hub.files import network_from, outline, read_json
from sfumato.runtime import choose_device
from sfumato.train.loop import TrainProgress
from sfumato.train.settings import TrainSettings
from sfumato.types import Progress

Event = TrainProgress | Progress | str
C = TypeVar("C", bound=Config)


class Plan(Config):
    """A training config file."""

    network: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    size: int = Field(64, ge=8)  # side of the pictures in pixels
    vocabulary: int = Field(8192, ge=516)  # number of tokens of a new tokenizer
    scheduler: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    corruption: str = ""  # what a restorer learns to undo; alternatives separated by |
    # longest side of a restorer's photos in pixels; larger photos are shrunk before training
    longest: int = Field(1500, ge=8)
    gray: float = Field(0.25, ge=0, le=1)  # share of a restorer's batches that are gray pictures
    turned: bool = True  # whether a restorer's crops are rotated by right angles
    vivid: bool = False  # whether colorful pixels have more weight in a restorer's loss
    # teacher of a restorer: its output, averaged over several views, is a part of the target
    teacher: str = ""
    # above 1: diffusion training samples high noise levels, where the text decides, more often
    shift: float = Field(1.0, gt=0)
    # standard deviation of the noise on the text states in diffusion training, relative to the
    # standard deviation of the states
    text_noise: float = Field(0.0, ge=0)
    rank: int = Field(8, ge=1, le=256)  # rank of a LoRA
    student_steps: int = Field(4, ge=1)  # steps of a student; must divide the teacher's steps
    trajectories: int = Field(6000, ge=1)  # number of teacher trajectories for training a student
    previews: list[str] = [
        "a red apple",
        "a dog",
        "a house",
        "a car",
        "a tree",
        "a smiling face",
        "a fish",
        "a star",
    ]


# Keys that each task uses, besides `network` and `settings`.
DIFFUSION = {"size", "scheduler", "defaults", "shift", "text_noise", "previews"}
USED: dict[str, set[str]] = {
    "text": {"vocabulary"},
    "autoencoder": {"size"},
    "diffusion": DIFFUSION,
    "diffusion from a model": DIFFUSION,
    "lora": (DIFFUSION - {"defaults"}) | {"rank"},
    "matcher": {"size"},
    "student": {"rank", "student_steps", "trajectories", "previews"},
    "upscaler": set(),
    "restorer": {
        "size",
        "corruption",
        "longest",
        "gray",
        "turned",
        "vivid",
        "teacher",
    },
}

# tasks that call parts of the network that torch.compile does not wrap
NOT_COMPILED = ("autoencoder", "matcher")
LOW_RANK = ("lora", "student")  # tasks that train a LoRA
# Default steps, batch size and, for some tasks, learning rate. A run takes minutes on two CPU
# cores, but hours for a U-Net from scratch.
USUAL: dict[str, tuple[float, ...]] = {
    "text": (3000, 256),
    "autoencoder": (8000, 16),
    "diffusion": (12_000, 64),
    "diffusion from a model": (2000, 64),
    "lora": (500, 16, 5e-4),
    "matcher": (1500, 256),
    "student": (1500, 32, 1e-3),
    "upscaler": (12_000, 16),
    "restorer": (4000, 8),
}


def read_plan(
    task: str, data: Path, output: Path, path: Path | None, given: Mapping[str, Any]
) -> tuple[Plan, TrainSettings]:
    """Read the config file and the settings of a training command.

    Raises
    ------
    OptionError
        If the output folder lies within the data folder.
    ConfigError
        If a key of the config file is unknown or has no effect on this task, or if the optimizer
        cannot be used for this task.
    """
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise OptionError(
            f"{output} lies in {data}, where its previews would become pictures to train on; give "
            "another --output"
        )
    plan = Plan.read(read_json(path), str(path)) if path else Plan()
    if unused := plan.model_fields_set - {"network", "settings"} - USED[task]:
        raise ConfigError(f"{path}: {min(unused)} has no effect on the training of this model")
    usual = dict(zip(("steps", "batch", "learning_rate"), USUAL[task], strict=False))
    settings = TrainSettings.read({**usual, **plan.settings, **given}, "training settings")
    if settings.optimizer == "muon" and task in LOW_RANK:
        raise ConfigError("Muon is for whole matrices, not for a LoRA: leave out the optimizer")
    if settings.compile and task in NOT_COMPILED:
        raise ConfigError(f"compile has no effect on the training of this {task}; leave it out")
    choose_device(settings.device)  # an unknown device is an error before any data are read
    return plan, settings


def identity(plan: Plan, data: str, network: Config, **more: Any) -> dict[str, Any]:
    """Everything that a run depends on besides its settings; a checkpoint must match it.

    `data` is a digest of what was read from the data.
    """
    return {
        "data": data,
        "network": network.model_dump(mode="json"),
        "size": plan.size,
        **more,
    }


def checked(kind: Callable[[C], nn.Module], config: type[C], values: Mapping[str, Any]) -> C:
    """Read a network's config and check that a network can be built, before any data are read."""
    found = config.read(values, "network")
    outline(kind, found, "network")
    return found


def skipped_lines(skipped: list[str], notes: list[str] | None = None) -> Iterator[str]:
    """Report skipped pictures and notes on captions, at most ten lines each."""
    for title, lines in (
        (f"skipped {len(skipped)} {'picture' if len(skipped) == 1 else 'pictures'}", skipped),
        ("notes on captions", notes or []),
    ):
        if lines:
            shown = "\n  ".join(lines[:10])
            more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
            yield f"{title}:\n  {shown}{more}"


def check_size(size: int, unit: int, what: str) -> None:
    """Raise DataError if `size` is not a multiple of `unit`; `what` describes the unit."""
    if size % unit:
        raise DataError(f"size {size} is not a multiple of {unit}, {what}")


def text_encoder(folder: Path) -> TextEncoder:
    """Load a text encoder.

    It comes from an output folder of ``train text``, a model folder, or a bundled model.
    """
    folder = BUNDLED / folder if str(folder) in bundled() else folder
    clip = network_from(CLIPText, CLIPTextConfig, folder / "text_encoder").eval()
    return TextEncoder(clip, CLIPTokenizer.load(folder / "tokenizer"))
