"""Prompts from the command line or a file, and pictures into files: what stands around `create` in a batch job."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato import image, metadata
from sfumato.errors import OptionError, PictureError
from sfumato.hub.load import load
from sfumato.sampler.registry import SAMPLERS
from sfumato.tasks.create import Made, Moment, walk
from sfumato.tasks.options import CreateOptions


@dataclass(frozen=True)
class Prompt:
    """One line of work: a text, and what its own line of the file says besides."""

    text: str
    name: str | None = None
    own: tuple[tuple[str, Any], ...] = ()


def gather(words: Sequence[str], path: Path | None) -> list[Prompt]:
    """Prompts of the command line and of a file (.txt, .jsonl with prompt/id/seed/negative_prompt, .csv)."""
    found = [Prompt(w) for w in words] + (_read(path) if path else [])
    if not found:
        raise OptionError("no prompt given; say what the picture shows, or give --prompts FILE")
    return found


def _read(path: Path) -> list[Prompt]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read as prompts: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        if path.suffix == ".csv":
            return [_record(r) for r in csv.DictReader(lines)]
        if path.suffix == ".jsonl" or (lines and lines[0].lstrip().startswith("{")):
            return [_record(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path}: each row needs a prompt; optional are id, seed and negative_prompt ({error!r})") from None
    return [Prompt(line.strip()) for line in lines]


def _record(row: Mapping[str, Any]) -> Prompt:
    own = [(k, row[k]) for k in ("seed", "negative_prompt") if row.get(k) not in (None, "")]
    name = row.get("id")
    return Prompt(row["prompt"], None if name in (None, "") else _safe(str(name)), tuple(own))


def _safe(text: str) -> str:
    """A file name without path tricks."""
    return re.sub(r"[^\w\-]+", "-", text).strip("-")[:60] or "picture"


def again(path: Path, values: Mapping[str, Any]) -> tuple[list[Prompt], dict[str, Any]]:
    """The prompt and options that a picture was made with; options given anew win."""
    settings, _ = metadata.read(path)
    if settings is None or settings.get("task") != "create":
        raise PictureError(f"{path} carries no settings of sfumato create; sfumato inspect shows what it carries")
    known = {k: v for k, v in settings.items() if k in CreateOptions.model_fields}
    model = load(str(known.get("model", "icons")))
    if settings.get("model_sha256") != model.sha256:
        raise OptionError(f"{path} was made with other weights of model {known.get('model')}: the same bytes cannot come out")
    return [Prompt(settings["prompt"])], {**values, **known, **{k: v for k, v in values.items() if v is not None and k != "count"}}


def run(wanted: Sequence[Prompt], values: Mapping[str, Any]) -> Iterator[tuple[Prompt | None, Moment | Made]]:
    """Make all pictures, prompts of equal options together; yields each event with the prompt it belongs to."""
    options = CreateOptions.build(values)
    model = load(options.model, options.device, options.dtype)
    groups: dict[tuple[tuple[str, Any], ...], list[Prompt]] = {}
    for item in wanted:
        groups.setdefault(item.own, []).append(item)
    for own, items in groups.items():
        chosen = CreateOptions.build({**values, **dict(own)}) if own else options
        order = [item for item in items for _ in range(chosen.count)]
        done = 0
        for event in walk([item.text for item in items], chosen, model):
            made = isinstance(event, Made)
            yield (order[done] if made else None), event
            done += made


class Saver:
    """Where pictures go: a file for one, else a folder with names from id or prompt, and seed."""

    def __init__(self, output: Path, *, overwrite: bool, single: bool) -> None:
        self.output, self.overwrite = output, overwrite
        self.as_file = output.suffix.lower() in metadata.FORMATS
        if self.as_file and not single:
            raise OptionError(f"{output} is one file, but several pictures are asked for; give a folder, as {output.with_suffix('')}/")
        self.folder = output.parent if self.as_file else output

    def check(self, wanted: Sequence[Prompt], values: Mapping[str, Any]) -> None:
        """Refuse before any work what cannot be written."""
        if self.folder.exists() and not self.folder.is_dir():
            raise OptionError(f"{self.folder} is a file; give a folder")
        there = next(p for p in [self.folder, *self.folder.absolute().parents] if p.exists())
        if not os.access(there, os.W_OK):
            raise OptionError(f"{there} cannot be written to; choose another --output")
        seed, count = values.get("seed"), int(values.get("count") or 1)
        for item in wanted:
            first: Any = dict(item.own).get("seed", seed)
            for k in range(count if first is not None else 0):
                self._free(self.path(item, int(first) + k, count))

    def path(self, item: Prompt, seed: int, count: int) -> Path:
        """The file of one picture."""
        if self.as_file:
            return self.output
        if item.name is not None:
            return self.folder / (f"{item.name}.png" if count == 1 else f"{item.name}_{seed}.png")
        return self.folder / f"{_safe(item.text)}-{seed}.png"

    def _free(self, path: Path) -> None:
        if path.exists() and not self.overwrite:
            raise OptionError(f"{path} is there already; give --overwrite to replace it")

    def save(self, item: Prompt, made: Made) -> Path:
        """Write one picture with its settings."""
        path = self.path(item, made.seed, made.count)
        self._free(path)
        metadata.save(made.picture, path, made.settings, metadata.parameters(made.settings, SAMPLERS[made.settings["sampler"]].label))
        return path

    def sheet(self, pictures: list[Image.Image]) -> Path:
        """Write all pictures on one sheet."""
        path = self.folder / "sheet.png"
        image.sheet(pictures).save(path)
        return path
