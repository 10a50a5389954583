"""Options of commands that take pictures."""

from __future__ import annotations

from typing import Any

from pydantic import (
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from sfumato.config import Options, note_of

IN_MEMORY = "(a picture in memory)"  # stands for a picture without a file in settings


class PictureOptions(Options):
    """Base class of options that contain pictures.

    A picture is given as a path. In Python, it can also be a Pillow image or an array, which is
    converted to the bytes of a PNG file.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _as_file(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if value is None or isinstance(value, str | bytes) or not note_of(field, "picture"):
            return value
        from sfumato.data.memory import png_of

        return png_of(value)

    @field_serializer("*", mode="wrap", when_used="json")
    def _without_bytes(self, value: Any, to_json: SerializerFunctionWrapHandler) -> Any:
        """Replace the bytes of a picture by a placeholder, because JSON cannot hold bytes."""
        return IN_MEMORY if isinstance(value, bytes) else to_json(value)
