"""TensorBoard event files of a training run, if tensorboard is installed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.train.loop import Progress


class Board:
    """Writes loss and rate every few steps; without tensorboard it does nothing, nor before the first step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def write(self, progress: Progress) -> None:
        """Add one point every ten steps."""
        if self.writer is None:
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.folder))
        if self.writer is not None and (progress.step % 10 == 0 or progress.step == progress.steps):
            self.writer.add_scalar("loss", progress.loss, progress.step)
            self.writer.add_scalar("samples per second", progress.rate, progress.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()
