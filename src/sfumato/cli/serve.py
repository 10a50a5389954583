"""``serve``: the studio in a browser, and HTTP APIs for existing clients."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli.say import note, say

Option = typer.Option
MISSING = "serve needs the package {}: pip install 'sfumato[studio]'"
Folder = Annotated[
    Path,
    Option(help="Folder of the queue and the pictures; a restarted server continues the queue."),
]
Host = Annotated[
    str, Option(help="Address to listen on; an address other than loopback needs --token.")
]
Token = Annotated[
    str | None,
    Option(
        envvar="SFUMATO_TOKEN",
        help="A secret that each request must contain (header Authorization: Bearer).",
    ),
]
Port = Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 chooses a free port.")]
Models = Annotated[
    list[str] | None,
    Option("--model", help="A model to offer besides the bundled models; may be repeated."),
]
Loras = Annotated[
    list[str] | None,
    Option("--lora", help="A LoRA to offer, in the format of train diffusion; may be repeated."),
]
Indexes = Annotated[
    list[str] | None,
    Option("--index", help="Folder of an index to search, from sfumato index; may be repeated."),
]
Mcp = Annotated[
    bool,
    Option(
        "--mcp",
        help="Serve the Model Context Protocol instead of HTTP: over standard input and output, to "
        "the program that started this server.",
    ),
]


def serve(
    folder: Folder = Path("served"),
    host: Host = "127.0.0.1",
    port: Port = 7860,
    token: Token = None,
    model: Models = None,
    index: Indexes = None,
    lora: Loras = None,
    queue: Annotated[int, Option(min=1, help="Maximum number of waiting jobs.")] = 100,
    keep: Annotated[float, Option(min=0.01, help="Hours for which results are kept.")] = 24.0,
    mcp: Mcp = False,
    log: Annotated[bool, Option("--log", help="Print a JSON line per request to stderr.")] = False,
) -> None:
    """Serve the studio (the browser interface) and HTTP APIs on this machine.

    The APIs are compatible with clients of OpenAI and of AUTOMATIC1111's web UI.
    """
    from sfumato.errors import OptionError
    from sfumato.runtime import check_folder

    if mcp:
        _serve_mcp(folder)
        return
    try:
        import uvicorn

        from sfumato.web.app import Settings, build
    except ModuleNotFoundError as error:
        raise OptionError(MISSING.format(error.name)) from None
    from sfumato.web.guard import LOOPBACK, logger

    if host not in LOOPBACK and not token:
        raise OptionError(f"{host} is not a loopback address: give --token, a secret")
    check_folder(folder)
    models, indexes, loras = model or [], index or [], lora or []
    _check_offered(models, indexes, loras)
    settings = Settings(folder, host, token, models, indexes, loras, queue, 3600 * keep)
    if log:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    how: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False}
    app = build(settings)
    config = uvicorn.Config(app, host, port, timeout_graceful_shutdown=5, **how)
    server = uvicorn.Server(config)
    _check_address(host, port)
    _run(server, app)
    if not server.started:
        raise OptionError(f"the server could not start; its queue is in {folder}")
    note("stopped; unfinished jobs continue at the next start")


def _check_offered(models: list[str], indexes: list[str], loras: list[str]) -> None:
    """Check, before the server starts, that all models, indexes and LoRAs exist."""
    from sfumato.errors import OptionError
    from sfumato.hub.catalog import model_path
    from sfumato.hub.lora import lora_file

    for path in models:
        model_path(path)
    for path in indexes:
        if not Path(path).is_dir():
            raise OptionError(f"index {path} does not exist; sfumato index creates an index")
    for path in loras:
        lora_file(path)


def _check_address(host: str, port: int) -> None:
    """Check that the server can listen on an address.

    Raises
    ------
    OptionError
    """
    from sfumato.errors import OptionError

    try:
        *_, (family, kind, _, _, address) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise OptionError(
            f"cannot listen on port {port} of {host} ({why}); give another --port or --host"
        ) from None


def _run(server: Any, app: Any) -> None:
    """Run the server until it is interrupted."""
    server.startup = functools.partial(_startup, server, server.startup)
    server.shutdown = functools.partial(_shutdown, app, server.shutdown)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        server.run()


async def _startup(server: Any, startup: Callable[..., Any], sockets: Any = None) -> None:
    """Start the server and print its address."""
    await startup(sockets)
    for listening in server.servers if server.started else ():
        host, port = listening.sockets[0].getsockname()[:2]
        say(f"http://{host}:{port}/")


async def _shutdown(app: Any, shutdown: Callable[..., Any], sockets: Any = None) -> None:
    """Tell waiting clients that the server stops, and stop it."""
    app.state.queue.dismiss()
    await shutdown(sockets)


def _serve_mcp(folder: Path) -> None:
    from sfumato.errors import OptionError
    from sfumato.runtime import check_folder

    try:
        from sfumato.web.mcp import build
    except ModuleNotFoundError as error:
        raise OptionError(MISSING.format(error.name)) from None
    check_folder(folder)
    build(folder).run("stdio")
