"""Write docs/options.md: the options of every command, from the records of options.

python docs/options.py
"""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.command import flags
from sfumato.config import FLAG, Options, note_of, range_of
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.evaluate.options import EvaluateOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import IndexOptions, SearchOptions

VERBS: dict[str, tuple[type[Options], str]] = {
    "create": (
        CreateOptions,
        "In Python: `sfumato.CreateOptions`. `explain` has the same options, except `--count` and "
        "`--batch`.",
    ),
    "restore": (RestoreOptions, "In Python: `sfumato.RestoreOptions`."),
    "reduce": (ReduceOptions, "In Python: `sfumato.ReduceOptions`."),
    "index": (IndexOptions, "In Python: arguments of `sfumato.index`."),
    "search": (SearchOptions, "In Python: arguments of `sfumato.search`."),
    "evaluate restore": (
        EvaluateOptions,
        "The command damages clean pictures, restores them and measures the result. Exactly one "
        "kind of damage must be given: `--denoise`, `--enlarge`, `--dejpeg`, `--fill` or "
        "`--colorize`.",
    ),
}
HEAD = """# Options

This page lists the options that the command line, the Python library and the server share. A field
is the name of an option in Python and in requests to the server; a flag is its name on the command
line. Without a default, the option is not set, or the model or the data decide. Options for files,
such as `--output`, are listed by `--help`. (`python docs/options.py` writes this page.)
"""


def page() -> str:
    """The whole file."""
    parts = [HEAD]
    for verb, (record, note) in VERBS.items():
        parts.append(f"## {verb}\n\n{note}\n")
        parts.append("| field | flag | default | range | what it does |\n|---|---|---|---|---|")
        for name, field in record.model_fields.items():
            flag = "" if name == "candidate" else " ".join(f"`{one}`" for one in flags(name, field))
            metavar = note_of(field, "metavar").replace("|", "\\|")
            default = "" if field.default in (None, "", ()) else f"`{field.default}`"
            about = FLAG.sub(r"`\g<0>`", (field.description or "").replace("|", "\\|"))
            shown = f"{flag} {metavar}".strip()
            parts.append(f"| `{name}` | {shown} | {default} | {range_of(field)} | {about} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), "utf-8")
