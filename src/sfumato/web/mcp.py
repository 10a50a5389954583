"""A server of the Model Context Protocol: language models can create, restore and find pictures.

It talks over standard input and output to the program that started it. Pictures are written to the
server's folder and also sent to the client.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from anyio import to_thread
from mcp.server.mcpserver import Image as Shown
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image
from pydantic import ValidationError

from sfumato import __version__, image, metadata
from sfumato.config import explain
from sfumato.data import photo as photos
from sfumato.data.foreign import read_options
from sfumato.errors import SfumatoError
from sfumato.hub.catalog import bundled, restorers
from sfumato.hub.describe import describe
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.create.run import Made, stream
from sfumato.tasks.restore.engines import engine
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.restore.run import Restored
from sfumato.tasks.search.options import SearchOptions
from sfumato.tasks.search.query import search as find
from sfumato.web.messages import for_clients

T = TypeVar("T")
SMALL = 768  # longest side in pixels of a picture that is sent to a client
ABOUT = """sfumato generates small pictures from texts, restores photographs, and finds pictures.
Pictures are given by their paths on this machine; results are written into one folder."""


class _Server(MCPServer[Any]):
    """A server that refuses unknown arguments, which the library ignores."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        tools = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        known = tools.get(name, arguments)
        if others := [given for given in arguments if given not in known]:
            hint = '; settings belong in "options"' if "options" in known else ""
            raise ToolError(
                f"{name} has no argument {', '.join(others)}; known: {', '.join(known)}{hint}"
            )
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(for_clients(explain(error.__cause__))) from None
            raise


def build(folder: Path) -> MCPServer[Any]:
    """Build the server; it writes pictures to `folder`."""
    server = _Server("sfumato", instructions=ABOUT, version=__version__)
    tools = _Tools(folder)
    pictures: list[Callable[..., Any]] = [tools.create, tools.restore]
    others: list[Callable[..., Any]] = [tools.search, tools.inspect, tools.models]
    for tool in pictures:  # results with pictures have no schema
        server.tool(structured_output=False)(_told(tool))
    for tool in others:
        server.tool()(_told(tool))
    return server


class _Tools:
    """The commands as tools; their docstrings are the descriptions that a client reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def create(self, prompt: str, options: CreateOptions | None = None) -> list[Any]:
        """Generate pictures from a text; returns the pictures and their paths."""
        out: list[Any] = []
        async for event in _in_thread(stream(prompt, options)):
            if isinstance(event, Made):
                with _new_file(self.folder, f"{prompt}-{event.seed}") as path:
                    event.save(path)
                unknown = "; the model seems to know no word of this text" if event.unknown else ""
                out += [_shown(event.picture), f"{path}: seed {event.seed}{unknown}"]
        return out

    async def restore(self, picture: str, options: RestoreOptions) -> list[Any]:
        """Repair a photograph: remove noise, JPEG artifacts and scratches, fill, color, enlarge.

        Returns the picture, its path, and a report.
        """
        before = await to_thread.run_sync(photos.read, Path(picture))
        restore = await to_thread.run_sync(engine, options)
        out: list[Any] = []
        async for event in _in_thread(restore(before)):
            if isinstance(event, Restored):
                with _new_file(self.folder, f"{Path(picture).stem}-restored") as path:
                    notes = [*before.notes, *event.notes, *photos.write(event.photo, path)]
                out += [_shown(image.read(path)), f"{path}: {event.report}", *notes]
        return out

    def search(
        self,
        index: str,
        words: str | None = None,
        like: str | None = None,
        options: SearchOptions | None = None,
    ) -> list[dict[str, Any]]:
        """Find the items of an index that are nearest to words or to an example.

        `index` is a folder written by sfumato index; `like` is the path of a picture or text file.
        """
        given = options or SearchOptions()
        found = find(index, words, given.k, given.where, like=like)
        return [hit.__dict__ for hit in found]

    def inspect(self, picture: str) -> dict[str, Any]:
        """Return the settings with which a picture was generated, if the picture contains them."""
        _, text = metadata.read(Path(picture))
        return {"settings": read_options(Path(picture)) or None, "parameters": text}

    def models(self) -> list[dict[str, Any]]:
        """List the bundled models, their sizes and styles."""
        return [describe(name) for name in (*bundled(), *restorers())]


def _told(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tool so that the messages of known errors reach the client."""

    @functools.wraps(tool)
    async def run(*args: Any, **given: Any) -> Any:
        try:
            if inspect.iscoroutinefunction(tool):
                return await tool(*args, **given)
            return await to_thread.run_sync(functools.partial(tool, *args, **given))
        except SfumatoError as error:
            raise ToolError(for_clients(str(error))) from None

    return run


async def _in_thread(work: Iterator[T]) -> AsyncIterator[T]:
    """Yield the events of a generator that computes in a thread.

    If the request is cancelled, the work stops after its current step.
    """
    end = object()
    while (event := await to_thread.run_sync(next, work, end)) is not end:
        yield cast("T", event)


@contextlib.contextmanager
def _new_file(folder: Path, name: str) -> Iterator[Path]:
    """Create an empty file in `folder` under a free name; if writing it fails, remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "picture"
    path = folder / f"{stem}.png"
    while True:
        try:
            path.touch(exist_ok=False)
            break
        except FileExistsError:
            path = folder / f"{stem}-{time.time_ns() % 10**9}.png"
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _shown(picture: Image.Image) -> Shown:
    """A picture for the client, shrunk so that no side is longer than `SMALL`."""
    small = picture.copy()
    small.thumbnail((SMALL, SMALL))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return Shown(data=stream.getvalue(), format="png")
