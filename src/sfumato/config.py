"""Base classes of configs and options: immutable records that report errors in one sentence.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from sfumato.errors import ConfigError, OptionError

DEVICES = "auto (cuda if available, else cpu), cpu, cuda or mps."  # help of `device`
FLAG = re.compile(r"--[a-z][a-z-]*[a-z]")


class Config(BaseModel):
    """Base class of all config and options records.

    The records are immutable, and an unknown key is an error.

    Keys that start with an underscore (``_class_name``, ``_diffusers_version``) are skipped, and so
    are unknown keys whose value is null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _skip_notes(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {
                k: v
                for k, v in data.items()
                if not str(k).startswith("_") and (v is not None or k in cls.model_fields)
            }
        return data

    @classmethod
    def read(cls, data: Mapping[str, Any], source: str) -> Self:
        """Validate `data`; an error names `source` and each wrong key.

        Raises
        ------
        ConfigError
            If a key is unknown or a value is not supported.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain(error)}") from None


def option(
    default: Any,
    description: str,
    *,
    flags: str = "",
    group: str = "",
    bare: str = "",
    metavar: str = "",
    is_picture: bool = False,
    **limits: Any,
) -> Any:
    """Define a field of an options record; command line, HTTP body and docs are generated from it.

    Parameters
    ----------
    default : object
        None leaves the choice to the model or to the data.
    description : str
        One line of help.
    flags : str
        Names on the command line, separated by spaces. By default, the field's name with hyphens:
        ``--field-name``.
    group : str
        Heading above the option in the help text.
    bare : str
        Value that the command line uses if the flag is given without a value.
    metavar : str
        Form of a value in the help text, such as ``WxH``.
    is_picture : bool
        Whether the value is a picture: the path of its file; or in Python, the file's bytes, a
        Pillow picture or an array.
    limits
        Limits for :func:`pydantic.Field`: ``ge``, ``lt``, ``min_length``, ...
    """
    notes = {"x-flags": flags, "x-group": group, "x-bare": bare, "x-metavar": metavar}
    notes["x-picture"] = "yes" if is_picture else ""
    extra: dict[str, Any] = {name: value for name, value in notes.items() if value}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def note_of(field: FieldInfo, name: str) -> str:
    """Return the setting `name` that :func:`option` stored in a field; empty if it is not set.

    `name` is "flags", "group", "bare", "metavar" or "picture".
    """
    extra = field.json_schema_extra
    return str(extra.get(f"x-{name}", "")) if isinstance(extra, dict) else ""


class Options(Config):
    """Base of the options of a command; library, command line and server all validate with it.

    An option that takes a path as text also takes a ``Path``. The parameters in the docstring of a
    subclass are generated from its fields.
    """

    # fields name their own limits, with messages of their own
    model_config = ConfigDict(allow_inf_nan=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Add the fields to the docstring of the subclass."""
        fields = flags_of(cls)
        lines = [
            line
            for name, field in cls.model_fields.items()
            for line in _documented(name, field, fields)
        ]
        head, examples, rest = (cls.__doc__ or "").partition("    Examples\n")
        cls.__doc__ = "\n".join(
            [head.rstrip(), "", "    Parameters", "    ----------", *lines, "", examples + rest]
        )

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, data: Any) -> Any:
        return (
            {k: _without_paths(v) for k, v in data.items()} if isinstance(data, Mapping) else data
        )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for fields that are not boolean: Python treats them as 1 and 0."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and "bool" not in str(field.annotation):
            raise OptionError(f"{info.field_name} is {value}: true and false are not accepted here")
        return value

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            cause = (error.errors()[0].get("ctx") or {}).get("error")
            raise OptionError(
                str(cause) if isinstance(cause, OptionError) else explain(error)
            ) from None

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return the given record, or build one of a mapping; None stands for all defaults.

        Raises
        ------
        OptionError
            If a value is wrong, or `given` is something else.
        """
        if isinstance(given, cls):
            return given
        if given is None or isinstance(given, Mapping):
            return cls.build(given or {})
        raise OptionError(f"options must be a {cls.__name__}, not {_short(given)}")

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Validate values from the command line or the server; None stands for the default.

        Raises
        ------
        OptionError
            If a value is wrong; the message is one sentence that names the option.
        """
        return cls(**{k: v for k, v in values.items() if v is not None})


def _without_paths(value: Any) -> Any:
    """Convert a path, and the paths of a list or tuple, to text."""
    if isinstance(value, list | tuple):
        return type(value)(_without_paths(one) for one in value)
    return str(value) if isinstance(value, Path) else value


def field_flags(name: str, field: FieldInfo) -> list[str]:
    """Return the flags of a field: those that :func:`option` stored, or else its own name."""
    return note_of(field, "flags").split() or [f"--{name.replace('_', '-')}"]


def flags_of(record: type[Config]) -> dict[str, str]:
    """Return the flags of a record's fields: flag -> name of the field."""
    found: dict[str, str] = {}
    for name, field in record.model_fields.items():
        found |= dict.fromkeys(field_flags(name, field), name)
    return found


def picture_fields(record: type[Config]) -> set[str]:
    """Return the names of the fields that hold pictures."""
    return {name for name, field in record.model_fields.items() if note_of(field, "picture")}


def range_of(field: FieldInfo) -> str:
    """Return the range of a number in words, such as "1 to 64"; empty if there are no limits."""
    limits = {
        name: getattr(limit, name)
        for limit in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(limit, name, None) is not None
    }
    said = {name: "2**63" if n == 2**63 else f"{n:,}" for name, n in limits.items()}
    if limits.keys() == {"ge", "le"}:
        return f"{said['ge']} to {said['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[name]} {n}" for name, n in said.items())


def _documented(name: str, field: FieldInfo, fields: Mapping[str, str]) -> list[str]:
    """Return the lines that describe a field in a numpy docstring.

    Each flag in the description is replaced by the name of its field. `fields` maps the flags to
    these names.
    """
    if not field.description:
        return []
    kind = (
        getattr(field.annotation, "__name__", "")
        if isinstance(field.annotation, type)
        else str(field.annotation)
    )
    kind = kind.replace("typing.", "")
    if allowed := range_of(field):
        kind += f", {allowed}"
    if not field.is_required() and field.default is not None:
        kind += f", default {field.default!r}"
    text = FLAG.sub(lambda flag: fields.get(flag[0], flag[0]), field.description)
    return [f"    {name} : {kind}", f"        {text}"]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def explain(error: ValidationError) -> str:
    """Turn a validation error into one sentence that names each key, its value and the reason."""
    parts = []
    for item in error.errors():
        key = ".".join(str(p) for p in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            parts.append(f"{key}={_short(item['input'])} is not a known key")
        elif item["type"] == "missing":
            parts.append(f"{key} is missing")
        elif isinstance(cause := (item.get("ctx") or {}).get("error"), OptionError):
            parts.append(str(cause))
        else:
            parts.append(f"{key}={_short(item['input'])} is not supported: {reason(item)}")
    return "; ".join(parts)


# what is expected, by the type of a validation error
EXPECTED = {
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "string_type": "give a text",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "greater_than": "it must be above {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be below {lt}",
    "less_than_equal": "it must be at most {le}",
}


def reason(item: Mapping[str, Any]) -> str:
    """Say what is expected in place of a wrong value, for one entry of ``ValidationError.errors``.

    Examples
    --------
    >>> reason({"type": "less_than_equal", "ctx": {"le": 1000}, "msg": ""})
    'it must be at most 1,000'
    """
    if item["type"] in EXPECTED:
        limits = {
            name: f"{int(limit):,}" if limit == int(limit) else limit
            for name, limit in (item.get("ctx") or {}).items()
            if isinstance(limit, int | float)
        }
        return EXPECTED[item["type"]].format(**limits)
    said = str(item["msg"]).removeprefix("Value error, ")
    return said[:1].lower() + said[1:]
