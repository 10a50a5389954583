"""Write the pictures of `create` to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato import image, metadata
from sfumato.errors import OptionError
from sfumato.runtime import atomic, check_file, check_folder
from sfumato.tasks.create.prompts import Prompt
from sfumato.tasks.create.run import Made


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
