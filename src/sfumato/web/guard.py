"""Checks of every request: its token, host name, origin and size.

A page of another site, open in a browser, can send requests to a server on this machine, even under
a host name of that site (DNS rebinding). A server without a token therefore accepts only loopback
names and its own host name. With or without a token, a request from a page must come from one of
the server's pages.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
# values in the JSON of a request, counted by their commas (base64 has none): reading JSON stops all
# other requests
VALUES = 200_000
SLOW = 30.0  # seconds that a client may take between two parts of its request
# paths without a token: the studio's files, the documentation, and results under a job's id, which
# cannot be guessed
OPEN = re.compile(r"/|/healthz|/static/[\w.-]+|/docs/.*|/v1/jobs/[\w-]{22}/(page|pictures/\d+)")
logger = logging.getLogger("sfumato.web")


class Refused(Exception):
    """A request that is not served."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Middleware that refuses requests that fail a check, and logs each request."""

    def __init__(self, app: ASGIApp, token: str | None, host: str, largest: int) -> None:
        self.app, self.token, self.host, self.largest = app, token or None, host, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived, status, started = time.monotonic(), 500, False
        refusals: list[Refused] = []

        async def sent(message: Message) -> None:
            nonlocal status, started
            if refusals and not started:
                return  # drop the app's response to an incomplete request
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._limited(scope, receive, refusals), sent)
            if refusals:
                raise refusals[0]
        except Refused as refused:
            status = refused.status
            if not started:
                await _refuse(send, refused)
        finally:
            line = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(time.monotonic() - arrived, 4),
            }
            logger.info(json.dumps(line))

    def _check(self, scope: Scope) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            raise Refused(403, "pages of other sites may not use this server")
        if self.token is not None:
            if not OPEN.fullmatch(scope["path"]) and not self._known(headers):
                raise Refused(401, "give the server's token: Authorization: Bearer TOKEN")
        elif _split(f"//{host}").hostname not in LOOPBACK | {self.host}:
            raise Refused(403, "the server is not known by this name")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.largest:
            raise Refused(413, f"a request may have up to {self.largest} bytes")

    def _known(self, headers: dict[str, str]) -> bool:
        assert self.token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(self.token.encode(), given.strip().encode("latin-1"))
        return kind.lower() == "bearer" and same

    def _limited(self, scope: Scope, receive: Receive, refusals: list[Refused]) -> Receive:
        """Wrap `receive` so that a request that is too large or too slow raises Refused.

        The refusal is also added to `refusals`, since the app may treat it as an error in the body.
        """
        kind = dict(scope["headers"]).get(b"content-type", b"")
        is_json = not kind.lower().startswith(b"multipart/")
        seen, values, whole = 0, 0, False

        async def limited() -> Message:
            nonlocal seen, values, whole
            if whole:  # only the end of the connection follows, which may take any time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), SLOW)
            except TimeoutError:
                refusals.append(Refused(408, "the request came too slowly"))
                raise refusals[0] from None
            body = message.get("body", b"")
            seen, values = seen + len(body), values + body.count(b",")
            whole = not message.get("more_body", False)
            if seen > self.largest:
                refusals.append(Refused(413, f"a request may have up to {self.largest} bytes"))
                raise refusals[0]
            if values > VALUES and is_json:
                refusals.append(Refused(413, f"a request may have up to {VALUES} values"))
                raise refusals[0]
            return message

        return limited


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise Refused(400, "the header Host or Origin cannot be read") from None


async def _refuse(send: Send, refused: Refused) -> None:
    error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
