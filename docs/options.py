"""Write docs/options.md: the options of every verb, from the records that the commands are made from.

python docs/options.py
"""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.command import flags
from sfumato.config import Options, note_of
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.evaluate.options import EvaluateOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import IndexOptions, SearchOptions

VERBS: dict[str, tuple[type[Options], str]] = {
    "create": (CreateOptions, "`explain` has the same, but for `--count` and `--batch`."),
    "restore": (RestoreOptions, ""),
    "reduce": (ReduceOptions, ""),
    "index": (IndexOptions, ""),
    "search": (SearchOptions, ""),
    "evaluate restore": (EvaluateOptions, ""),
}
HEAD = """# Options

Made by `python docs/options.py` from the records that commands, server and library read. A field is the name in Python
and in the server's requests; a flag is the name on the command line.
"""


def page() -> str:
    """The whole file."""
    parts = [HEAD]
    for verb, (record, note) in VERBS.items():
        parts.append(f"## {verb}\n\n`sfumato.{record.__name__}`. {note}".rstrip() + "\n")
        parts.append("| field | flag | default | what it does |\n|---|---|---|---|")
        for name, field in record.model_fields.items():
            flag = " ".join(f"`{one}`" for one in flags(name, field))
            metavar = note_of(field, "metavar").replace("|", "\\|")
            default = "" if field.default in (None, "", ()) else f"`{field.default}`"
            about = (field.description or "").replace("|", "\\|")
            shown = f"{flag} {metavar}".strip()
            parts.append(f"| `{name}` | {shown} | {default} | {about} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), "utf-8")
