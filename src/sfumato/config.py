"""Configs and options: frozen records, and one sentence for a wrong value. Nothing here needs
torch.
"""

from __future__ import annotations

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


class Config(BaseModel):
    """Base of every config and options record: frozen, and an unknown key is an error that names
    it.

    Keys that start with an underscore (``_class_name``, ``_diffusers_version``) are notes and are
    skipped, and so are unknown keys that say nothing (null).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """Validate `data`, naming `source` and each wrong key if it does not fit.

        Raises
        ------
        ConfigError
            For keys that are unknown and values that are not supported.
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
    **limits: Any,
) -> Any:
    """A field of an options record: the command line, the HTTP body and the docs are made from it.

    Parameters
    ----------
    default : object
        None leaves the choice to the model or to the data.
    description : str
        One line of help.
    flags : str
        Names on the command line, separated by spaces, where ``--the-name`` is not the one.
    group : str
        Heading that the option stands under in help.
    bare : str
        What the option means on the command line if no value follows.
    metavar : str
        How a value is written, as ``WxH``.
    limits
        Of :func:`pydantic.Field`: ``ge``, ``lt``, ``min_length``, ...
    """
    notes = {"x-flags": flags, "x-group": group, "x-bare": bare, "x-metavar": metavar}
    extra: dict[str, Any] = {name: value for name, value in notes.items() if value}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def note_of(field: FieldInfo, name: str) -> str:
    """What :func:`option` was told besides: "flags", "group", "bare" or "metavar"."""
    extra = field.json_schema_extra
    return str(extra.get(f"x-{name}", "")) if isinstance(extra, dict) else ""


class Options(Config):
    """Base of what a user asks a verb for; library, command line and server validate it here.

    Paths may be given as such. The parameters in the docstring of a subclass are made from its
    fields.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Document the fields."""
        lines = [
            line for name, field in cls.model_fields.items() for line in _documented(name, field)
        ]
        head, examples, rest = (cls.__doc__ or "").partition("    Examples\n")
        cls.__doc__ = "\n".join(
            [head.rstrip(), "", "    Parameters", "    ----------", *lines, "", examples + rest]
        )

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, data: Any) -> Any:
        return (
            {k: str(v) if isinstance(v, Path) else v for k, v in data.items()}
            if isinstance(data, Mapping)
            else data
        )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is meant: Python counts them as 1 and 0."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and "bool" not in str(field.annotation):
            raise OptionError(f"{info.field_name} is {value}: no truth value is meant here")
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
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Validate values from an edge; what is None is left to its default.

        Raises
        ------
        OptionError
            With one sentence that names the option.
        """
        return cls(**{k: v for k, v in values.items() if v is not None})


def _documented(name: str, field: FieldInfo) -> list[str]:
    """The lines of a numpy docstring about a field."""
    if not field.description:
        return []
    kind = (
        getattr(field.annotation, "__name__", "")
        if isinstance(field.annotation, type)
        else str(field.annotation)
    )
    default = "" if field.default is None else f", default {field.default!r}"
    return [f"    {name} : {kind.replace('typing.', '')}{default}", f"        {field.description}"]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def explain(error: ValidationError) -> str:
    """Turn a validation error into one sentence that names each key, its value and what is
    accepted.
    """
    parts = []
    for item in error.errors():
        key = ".".join(str(p) for p in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            parts.append(f"{key}={_short(item['input'])} is not a known key")
        else:
            parts.append(f"{key}={_short(item['input'])} is not supported ({item['msg'].lower()})")
    return "; ".join(parts)
