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
        is_jpeg = metadata.FORMATS.get(self.output.suffix.lower()) == "JPEG"
        count = int(values.get("count") or 1)
        planned = set[Path]()
        if grid:
            planned.add(self._sheet)
            self._free(self._sheet)
        for item in wanted:
            options = {**values, **dict(item.own)}
            if is_jpeg and options.get("transparent"):
                raise OptionError(f"{self.output}: a JPEG has no transparency; give .png or .webp")
            for seed in self._seeds(item, options.get("seed"), count):
                path = self.path(item, seed, count)
                if path in planned:
                    raise OptionError(
                        f"two pictures would be written to {path}; give the prompts ids, or "
                        "another --output"
                    )
                planned.add(path)
                self._free(path)

    def _seeds(self, item: Prompt, first: Any, count: int) -> Sequence[int]:
        """Return the seeds for which :meth:`check` must check a file name.

        These are the seeds of a prompt's pictures. Random seeds are not chosen yet: then return one
        arbitrary seed if the file name does not contain the seed, and otherwise no seed.
        """
        if first is not None:
            return range(int(first), int(first) + count)
        named_by_seed = self.path(item, 0, count) != self.path(item, 1, count)
        return [] if named_by_seed else [0]

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
