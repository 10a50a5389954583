"""Read prompts for `create` from the command line or a file, and generate their pictures."""

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

from sfumato.data.tables import find_delimiter
from sfumato.data.text import decode
from sfumato.errors import OptionError
from sfumato.hub.load import Model
from sfumato.tasks.create.options import NO_PROMPT, CreateOptions
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
        raise OptionError(NO_PROMPT)
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
