"""Build the flags, help texts and checks of a command from its options record."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from sfumato.config import Config, field_flags, note_of, range_of


def data_path(text: str) -> Path:
    """Convert an argument to a path; it must not be empty: ``Path("")`` is the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text)


def takes(
    record: type[Config],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    defaults: bool = True,
) -> Callable[..., Any]:
    """Return a decorator that adds the options of a record to a command.

    Parameters
    ----------
    record : type of Config
        Its fields are defined with :func:`sfumato.config.option`.
    only, without : collection of str
        Fields to include (all if empty), and fields to leave out.
    defaults : bool
        Whether the help text shows the record's defaults. False if each command has its own
        defaults.

    Returns
    -------
    callable
        A decorator. The command receives the options in ``**values`` and filters them with
        :func:`given`. Its other parameters are kept.
    """
    fields = {
        n: f for n, f in record.model_fields.items() if n not in without and (not only or n in only)
    }

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        *own, _ = inspect.signature(run, eval_str=True).parameters.values()
        made = [_parameter(name, field, defaults=defaults) for name, field in fields.items()]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *made]]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def help_of(run: Callable[..., None]) -> str:
    """Return a command's docstring with one line per paragraph, so that the terminal wraps it."""
    paragraphs = (inspect.getdoc(run) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line, by field name."""
    return {name: value for name, value in values.items() if value not in (None, [])}


def flags(name: str, field: FieldInfo) -> list[str]:
    """The names of a field on the command line."""
    named = field_flags(name, field)
    return [f"{named[0]}/--no-{named[0][2:]}"] if field.default is True else named


def command_class(record: type[Config]) -> type[TyperCommand]:
    """Build a command class in which some options may be given without a value.

    ``--denoise`` then means ``--denoise=auto``.
    """
    bare = {  # other names of such an option, such as --noise-level, need a value
        flags(n, f)[0]: word for n, f in record.model_fields.items() if (word := note_of(f, "bare"))
    }

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Insert the missing value after an option of `bare`.

            A value is missing if neither the word in `bare` nor a number follows the option. A word
            that begins with a digit is a number unless a file has this name.
            """
            out: list[str] = []
            for k, word in enumerate(args):
                out.append(word)
                follows = args[k + 1] if k + 1 < len(args) else ""
                number = re.match(r"-?\.?\d", follows) and not Path(follows).exists()
                if word in bare and follows != bare[word] and not number:
                    out.append(bare[word])
            return super().parse_args(ctx, out)

    return Command


def _parameter(name: str, field: FieldInfo, *, defaults: bool) -> inspect.Parameter:
    """Build a typer parameter from a field; the value is None if the option is not given."""
    kind, choices = _kind(field.annotation)
    declared = typer.Option(
        *flags(name, field),
        help=_help(field, defaults=defaults),
        metavar=note_of(field, "metavar") or ("|".join(choices) if choices else None),
        show_default=False,
        rich_help_panel=note_of(field, "group") or None,
    )
    annotation = Annotated[kind | None, declared]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(field: FieldInfo, *, defaults: bool) -> str:
    """The description of a field, with its range and its default."""
    notes = [allowed] if (allowed := range_of(field)) else []
    if defaults and field.default not in (None, "", (), False, True):
        notes.append(f"default {_spelled(field.default)}")
    return f"{field.description} ({'; '.join(notes)})" if notes else str(field.description)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(annotation: Any) -> tuple[Any, list[str]]:
    """Return the type that typer uses for a field, and the choices of a Literal.

    For a type that typer does not support, the type is str, and the options record parses the
    string. A flag can be repeated if its field is a tuple of any number of strings or tuples. A
    tuple of numbers is one string with commas.
    """
    parts = (
        [p for p in get_args(annotation) if p is not type(None)]
        if get_origin(annotation) in (Union, UnionType)
        else [annotation]
    )
    if len(parts) > 1:
        return str, []
    (part,) = parts
    if get_origin(part) is Literal:
        return str, [str(choice) for choice in get_args(part)]
    if get_origin(part) is tuple:
        first, *_ = items = get_args(part)
        repeated = items[-1] is Ellipsis and (first is str or get_origin(first) is tuple)
        return (list[str] if repeated else str), []
    return part, []
