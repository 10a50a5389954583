"""TensorBoard event files of a training run, if tensorboard is installed."""

from __future__ import annotations

import functools
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.train.loop import TrainProgress


class Board:
    """Writes loss and speed every few steps, if tensorboard is installed.

    No file is created before the first point.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def writer(self) -> Any:
        """TensorBoard's writer, created at first use; None if tensorboard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(str(self.folder))

    def write(self, progress: TrainProgress) -> None:
        """Add one point every ten steps."""
        if (progress.step % 10 == 0 or progress.step == progress.steps) and self.writer is not None:
            self.writer.add_scalar("loss", progress.loss, progress.step)
            self.writer.add_scalar("samples per second", progress.samples_per_second, progress.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.__dict__.get("writer") is not None:
            self.writer.close()
