"""What every answer of the page is wrapped in."""

from collections.abc import Container

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Adds headers that keep the page to itself, and answers only to its own host names.

    The latter keeps other sites from reaching a page on this machine by a name of theirs that leads here.
    """

    def __init__(self, app: ASGIApp, hosts: Container[str] | None) -> None:
        self.app = app
        self.hosts = hosts  # None: any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            await PlainTextResponse("this page does not answer to that name", 421)(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)


def _name(host: str) -> str:
    """A host without its port: "localhost:80" -> "localhost", "[::1]:80" -> "[::1]"."""
    return host.lower() if host.endswith("]") else (host.rpartition(":")[0] or host).lower()
