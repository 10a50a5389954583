"""Options of commands that take pictures."""

from __future__ import annotations

from typing import Any

from pydantic import (
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from sfumato.config import Options, field_flags, note_of
from sfumato.errors import OptionError

IN_MEMORY = "(a picture in memory)"  # stands for a picture without a file in settings


class PictureOptions(Options):
    """Base class of options that contain pictures.

    A picture is given as a path. In Python, it can also be a Pillow image or an array, which is
    converted to the bytes of a PNG file.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _as_file(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if value is None or not note_of(cls.model_fields[name], "picture"):
            return value
        if isinstance(value, str) and not value.strip():  # such as an unset variable of a shell
            flag = field_flags(name, cls.model_fields[name])[0]
            raise OptionError(f"{flag} is empty; give the path of a picture")
        if isinstance(value, str | bytes):
            return value
        from sfumato.data.memory import png_of

        return png_of(value)

    @field_serializer("*", mode="wrap", when_used="json")
    def _without_bytes(self, value: Any, to_json: SerializerFunctionWrapHandler) -> Any:
        """Replace the bytes of a picture by a placeholder, because JSON cannot hold bytes."""
        return IN_MEMORY if isinstance(value, bytes) else to_json(value)
