"""Put the documentation site into the wheel, if ``make docs`` has built it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DocsHook(BuildHookInterface):
    """The site becomes the folder that the studio serves."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the site to the files of the wheel."""
        site = Path(self.root) / "build" / "docs"
        if version != "editable" and site.is_dir():
            build_data["force_include"][str(site)] = "sfumato/web/docs"
