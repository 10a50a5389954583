"""Read prompts for `create` from the command line or a file, and write pictures to files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato import image, metadata
from sfumato.condition.words import with_names
from sfumato.data.tables import find_delimiter
from sfumato.data.text import decode
from sfumato.errors import OptionError, PictureError
from sfumato.hub.files import digest
from sfumato.hub.load import Model
from sfumato.runtime import atomic, check_file, check_folder
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.plan import load_model
from sfumato.tasks.create.run import Event, Made, plan_pictures, stream_rows

OF_A_ROW = frozenset(CreateOptions.model_fields) - {
    "model",
    "count",
    "candidate",
    "device",
    "dtype",
    "batch",
    "loras",
    "fast",
}


@dataclass(frozen=True)
class Prompt:
    """A prompt with the id (`name`) and the options (`own`) of its row in a file of prompts.

    `twin` numbers the prompts whose file names would be the same.
    """

    text: str
    name: str | None = None
    own: tuple[tuple[str, Any], ...] = ()
    twin: int = 1

    @property
    def stem(self) -> str:
        """Start of the file names of the prompt's pictures."""
        return (self.name or _safe(self.text)) + (f"-{self.twin}" if self.twin > 1 else "")


def gather(words: Sequence[str], path: Path | None) -> list[Prompt]:
    """Collect prompts from the command line and from a file (.txt, .jsonl, .json, .csv).

    The rows of a file may have ids and options.
    """
    found = [Prompt(w) for w in words] + (_read(path) if path else [])
    if not found:
        raise OptionError("no prompt given; say what the picture shows, or give --prompts FILE")
    # names in use, including names of twins, and the last twin of each name
    twins: Counter[tuple[str, Any]] = Counter()
    out = []
    for item in found:  # names that differ only in punctuation or case would share a file
        seed = None if item.name else dict(item.own).get("seed")
        plain = item.stem.casefold(), seed
        while (item.stem.casefold(), seed) in twins:
            twins[plain] += 1
            item = replace(item, twin=twins[plain])
        twins[item.stem.casefold(), seed] = 1
        out.append(item)
    return out


def _read(path: Path) -> list[Prompt]:
    try:
        text, guessed = decode(path.read_bytes())
    except OSError as error:
        raise OptionError(f"{path} cannot be read as prompts: {error}") from None
    if guessed:
        raise OptionError(f"{path} cannot be read as prompts: it is not UTF-8; save it as UTF-8")
    # not splitlines: JSON may contain other line ends
    lines, kind = [line for line in text.split("\n") if line.strip()], path.suffix.lower()
    if kind in (".csv", ".tsv"):
        delimiter = find_delimiter(text, "\t" if kind == ".tsv" else ",")
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:  # a quotation mark that is not closed
            raise OptionError(f"{path} cannot be read as prompts: {error}") from None
        # an empty cell sets nothing
        rows = [
            {name: cell for name, cell in row.items() if cell not in (None, "")} for row in rows
        ]
        return [_record(row, f"{path}, row {k}") for k, row in enumerate(rows, 1)]
    if kind == ".json" and lines and lines[0].lstrip().startswith("["):
        listed = _json(text)
        if not isinstance(listed, list):
            raise OptionError(f"{path} cannot be read as a JSON list of prompts")
        return [
            Prompt(row) if isinstance(row, str) else _record(row, f"{path}, row {k}")
            for k, row in enumerate(listed, 1)
        ]
    if kind == ".jsonl" or (kind != ".txt" and lines and lines[0].lstrip().startswith("{")):
        return [_record(_json(line), f"{path}, row {k}") for k, line in enumerate(lines, 1)]
    return [Prompt(line.strip()) for line in lines]


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _record(row: object, where: str) -> Prompt:
    """Read prompt, id and options from a row; `where` names the row in error messages."""
    given = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
    if None in given:
        raise OptionError(
            f"{where}: more cells than columns; put a prompt that contains a comma into quotation "
            "marks"
        )
    text, name = given.pop("prompt", None), given.pop("id", None)
    if not isinstance(text, str):
        raise OptionError(
            f"{where}: each row needs a prompt (a string), and may have id, seed, negative_prompt "
            "and other options of create"
        )
    if unknown := given.keys() - OF_A_ROW:
        raise OptionError(
            f"{where}: {min(map(str, unknown))} is not an option of a row; known options are "
            f"{', '.join(sorted(OF_A_ROW))}"
        )
    try:
        chosen = CreateOptions.build(given)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    own = tuple((k, getattr(chosen, k)) for k in sorted(chosen.model_fields_set))
    return Prompt(text, None if name is None else _safe(str(name)), own)


def _safe(text: str) -> str:
    """Turn a text into a safe file name."""
    return (
        re.sub(r"[^\w\-]+", "-", text).strip("-")[:60].encode()[:200].decode(errors="ignore")
        or "picture"
    )


def again(
    path: Path, given: Mapping[str, Any], wanted: Sequence[Prompt] = ()
) -> tuple[list[Prompt], dict[str, Any], Model]:
    """Return the prompts, options and model to generate a picture again.

    Newly given options and prompts take precedence over those stored in the picture.
    """
    settings, _ = metadata.read(path)
    if (
        settings is None
        or settings.get("task") != "create"
        or not isinstance(settings.get("prompt"), str)
    ):
        raise PictureError(
            f"{path} contains no settings of sfumato create; sfumato inspect shows what it contains"
        )
    # settings of older pictures have no candidate
    known = {"candidate": 0} | {
        k: v for k, v in settings.items() if k in CreateOptions.model_fields
    }
    chosen = {k: v for k, v in given.items() if v is not None and k != "count"}
    if settings.get("prior", 1) != 1 and not chosen.keys() & {"model", "source"}:
        raise OptionError(
            f"{path} was generated from a prior's estimate of the text, which is not supported any "
            "more: the picture cannot be reproduced"
        )
    for kind in ("source", "mask", "model"):  # the stored path, or a file next to the picture
        if (
            isinstance(file := known.get(kind), str)
            and not Path(file).exists()
            and (path.parent / file).exists()
        ):
            settings[kind] = known[kind] = str(path.parent / file)
    _same_files(path, settings, {"source", "mask"} - chosen.keys())
    known = {k: v for k, v in known.items() if k not in _overridden(chosen, given, wanted)}
    if not {**known, **chosen}.get("source"):
        known.pop("strength", None)
    values = {**given, **known, **chosen}
    model = load_model(CreateOptions.build(values))
    if "model" not in chosen:
        _same_weights(path, settings, model)
    if not wanted and not chosen.keys() & {"model", "style"}:
        _same_words(path, settings, model)
    return list(wanted) or [Prompt(settings["prompt"])], values, model


def _same_weights(path: Path, settings: Mapping[str, Any], model: Model) -> None:
    """Refuse to reproduce a picture if the model's weights have changed."""
    parts = model.parts
    then = settings.get("parts") or {}
    wrong = (
        [k for k, v in then.items() if parts.get(k) != v] if isinstance(then, dict) else ["parts"]
    )
    if settings.get("model_sha256") != model.sha256 or wrong:
        raise OptionError(
            f"{path} was generated with other weights of the model {model.name}: the picture "
            "cannot be reproduced"
        )


def _same_words(path: Path, settings: Mapping[str, Any], model: Model) -> None:
    """Refuse to reproduce a picture if the words of its style have changed."""
    words = model.defaults.styles.get(settings.get("style") or "")
    named = with_names(model.text, settings["prompt"])
    styled = f"{named}, {words}" if words else named
    if settings.get("styled", styled) != styled:
        raise OptionError(
            f'{path} was generated from "{settings["styled"]}", but the style is "{words}" now: '
            "the picture would not be the same"
        )


def _same_files(path: Path, settings: Mapping[str, Any], kinds: set[str]) -> None:
    for kind in sorted(kinds):
        file = settings.get(kind)
        if file and not isinstance(file, str):
            raise PictureError(f"{path}: its settings are damaged: {kind} is {file!r:.60}")
        if file and not Path(file).is_file():
            raise OptionError(f"{path} was generated from {file}, which does not exist any more")
        if file and settings.get(f"{kind}_sha256") not in (None, digest(Path(file))):
            raise OptionError(
                f"{path} was generated from another version of {file}: the picture cannot be "
                "reproduced"
            )


def _overridden(
    chosen: Mapping[str, Any], given: Mapping[str, Any], wanted: Sequence[Prompt]
) -> set[str]:
    """Stored settings that the newly given options and prompts make invalid."""
    out: set[str] = set()
    if chosen.keys() & {"model", "sampler"}:
        out.add("eta")
    if "model" in chosen:  # chosen for the other model
        out |= {"style", "size", "steps", "guidance_scale", "sampler", "best_of"}
    if chosen.keys() & {"model", "seed", "best_of"} or wanted or (given.get("count") or 1) > 1:
        out.add("candidate")  # the best candidate is chosen again
    return out


def run(
    wanted: Sequence[Prompt], values: Mapping[str, Any], model: Model | None = None
) -> Iterator[tuple[Prompt | None, Event]]:
    """Generate all pictures; yield pairs of a prompt and an event.

    An event is progress or a picture. The prompt is None for progress.

    Prompts with equal options are generated together.
    """
    model = model or load_model(CreateOptions.build(values))
    groups: dict[tuple[tuple[str, Any], ...], list[Prompt]] = {}
    for item in wanted:
        groups.setdefault(item.own, []).append(item)
    sources = values.get("source") or any("source" in dict(own) for own in groups)
    jobs = []
    for own, items in groups.items():
        given = {**values, **dict(own)}
        if sources and not given.get("source") and "strength" not in dict(own):
            given.pop("strength", None)  # it belongs to the rows with a start picture
        jobs.append((CreateOptions.build(given), items))
    for options, items in jobs:  # refuse invalid options before any work
        plan_pictures([item.text for item in items], options, model)
    for options, items in jobs:
        order = iter([item for item in items for _ in range(options.count)])
        plan, rows = plan_pictures([item.text for item in items], options, model)
        for event in stream_rows(plan, rows):
            yield (next(order) if isinstance(event, Made) else None), event


class Saver:
    """Writes pictures to one file, or to a folder.

    In a folder, file names are built from the prompt's id or text, usually followed by the seed.
    """

    def __init__(self, output: Path, *, overwrite: bool, single: bool) -> None:
        self.output, self.overwrite = output, overwrite
        self.as_file = output.suffix.lower() in metadata.FORMATS
        if output.suffix.lower() in image.ENDINGS and not self.as_file:
            raise OptionError(f"{output}: pictures are written as {', '.join(metadata.FORMATS)}")
        if self.as_file and not single:
            raise OptionError(
                f"{output} is one file, but several pictures were requested; give a folder, such "
                f"as {output.with_suffix('')}/"
            )
        self.folder = output.parent if self.as_file else output

    def check(
        self, wanted: Sequence[Prompt], values: Mapping[str, Any], *, grid: bool = False
    ) -> None:
        """Check before any work that all pictures can be written."""
        check_folder(self.folder)
        if values.get("transparent") and metadata.FORMATS.get(self.output.suffix.lower()) == "JPEG":
            raise OptionError(f"{self.output}: a JPEG has no transparency; give .png or .webp")
        seed, count = values.get("seed"), int(values.get("count") or 1)
        planned: set[Path] = {self._sheet} if grid else set()
        for path in planned:
            self._free(path)
        for item in wanted:
            first: Any = dict(item.own).get("seed", seed)
            # a name without the seed is known before the seed is chosen
            unnamed = self.path(item, 0, count) == self.path(item, 1, count)
            for one in range(unnamed) if first is None else range(int(first), int(first) + count):
                path = self.path(item, one, count)
                if path in planned:
                    raise OptionError(
                        f"two pictures would be written to {path}; give the prompts ids, or "
                        "another --output"
                    )
                planned.add(path)
                self._free(path)

    @property
    def _sheet(self) -> Path:
        return self.folder / "sheet.png"

    def path(self, item: Prompt, seed: int, count: int) -> Path:
        """The file of one picture."""
        if self.as_file:
            return self.output
        if item.name is not None:
            return self.folder / (f"{item.stem}.png" if count == 1 else f"{item.stem}_{seed}.png")
        return self.folder / f"{item.stem}-{seed}.png"

    def _free(self, path: Path) -> None:
        check_file(path, overwrite=self.overwrite)

    def save(self, item: Prompt, made: Made) -> Path:
        """Write one picture with its settings."""
        path = self.path(item, made.seed, made.count)
        self._free(path)
        made.save(path)
        return path

    def sheet(self, pictures: list[Image.Image]) -> Path:
        """Write all pictures on one sheet."""
        with atomic(self._sheet) as scratch:
            image.sheet(pictures).save(scratch, "PNG")
        return self._sheet
