"""What every training command needs: its config file, its lines, what a checkpoint must match.

A config file holds a network's config and training settings: ``{"network": {...}, "settings":
{...}, ...}``; what the command line gives wins. The same command again resumes.
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
from sfumato.errors import DataError, OptionError
from sfumato.hub.files import network_from, outline, read_json
from sfumato.hub.load import BUNDLED, bundled
from sfumato.train.loop import Progress
from sfumato.train.pack import state
from sfumato.train.settings import TrainSettings

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
    # side that photos are shrunk to before a restorer is trained on them
    longest: int = Field(1500, ge=8)
    gray: float = Field(0.25, ge=0, le=1)  # share of a restorer's batches that are gray pictures
    turned: bool = True  # whether a restorer's crops are turned by right angles
    vivid: bool = False  # whether a restorer's error counts more where there is color
    # restorer whose answers, the mean of several views, a restorer learns besides the pictures
    teacher: str = ""
    # above 1 trains text to image more at high noise, where the text decides
    shift: float = Field(1.0, gt=0)
    # deviation of noise on text states in diffusion training, in units of theirs
    text_noise: float = Field(0.0, ge=0)
    rank: int = Field(8, ge=1, le=256)  # of a LoRA's changes
    student_steps: int = Field(4, ge=1)  # of a student; they part its teacher's evenly
    walks: int = Field(6000, ge=1)  # of a teacher that its student learns from
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


# Steps and batch, and perhaps the rate, where nobody says any: minutes of two CPU cores, but for a
# U-Net from the beginning, which takes hours.
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
    """The config file and the settings of a training command.

    Raises
    ------
    OptionError
        For an output folder within the data.
    """
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise OptionError(
            f"{output} lies in {data}, where its previews would become pictures to train on; give "
            "another --output"
        )
    plan = Plan.read(read_json(path), str(path)) if path else Plan()
    usual = dict(zip(("steps", "batch", "learning_rate"), USUAL[task], strict=False))
    return plan, TrainSettings.read({**usual, **plan.settings, **given}, "training settings")


def identity(plan: Plan, data: Path, network: Config, **more: Any) -> dict[str, Any]:
    """What a run depends on besides its settings: a checkpoint in the folder must agree."""
    return {
        "data": state(data),
        "network": network.model_dump(mode="json"),
        "size": plan.size,
        **more,
    }


def checked(kind: Callable[[C], nn.Module], config: type[C], values: Mapping[str, Any]) -> C:
    """A network's config, refused if its numbers make no network: before the data are read."""
    found = config.read(values, "network")
    outline(kind, found, "network")
    return found


def skipped_lines(skipped: list[str], notes: list[str] | None = None) -> Iterator[str]:
    """What was left out, and what was guessed; ten lines of each at most."""
    for title, lines in (
        (f"skipped {len(skipped)} {'picture' if len(skipped) == 1 else 'pictures'}", skipped),
        ("read with doubt", notes or []),
    ):
        if lines:
            shown = "\n  ".join(lines[:10])
            more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
            yield f"{title}:\n  {shown}{more}"


def in_tenths(steps: Iterator[tuple[str, int, int]]) -> Iterator[Event]:
    """Lines of progress, one per tenth of each part."""
    last = ""
    for what, done, total in steps:
        if (note := f"{what}: {10 * done // total * 10} %") != last:
            yield (last := note)


def check_size(size: int, unit: int, what: str) -> None:
    """Refuse a side that a network cannot halve often enough."""
    if size % unit:
        raise DataError(f"size {size} is not a multiple of {unit}, {what}")


def text_encoder(folder: Path) -> TextEncoder:
    """The text encoder of a folder that ``train text`` wrote, of a model, or of a bundled one's
    name.
    """
    folder = BUNDLED / folder if str(folder) in bundled() else folder
    clip = network_from(CLIPText, CLIPTextConfig, folder / "text_encoder").eval()
    return TextEncoder(clip, CLIPTokenizer.load(folder / "tokenizer"))
