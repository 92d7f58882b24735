"""The page's addresses: requests in, answers out, nothing of another visitor's; and running them."""

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from denseclip.data.images import read_image
from denseclip.errors import UserError
from denseclip.text.prompts import class_set, class_set_names
from denseclip.web.ml_backend import LabelStudio
from denseclip.web.model_server import ModelServer
from denseclip.web.request import SegmentRequest, plain_name
from denseclip.web.session import Picture, Session, SessionEndedError, Sessions
from denseclip.web.views import (
    about,
    answer_header,
    coco_json,
    example,
    example_thumbnail,
    jpeg,
    packed,
    picture_png,
    picture_view,
    pixel_view,
    png,
    thumbnail,
)

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class SecurityHeaders:
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


T = TypeVar("T")

STATIC = Path(__file__).parent / "static"
WORKERS = 2  # visitors computed for at the same time
TOKEN_HEADER = "x-denseclip"  # noqa: S105 a name, no secret
"""Carries the session's token. A page of another site cannot send it: its browser would ask first, in vain."""


def make_app(
    server: ModelServer, hosts: frozenset[str] | None = None, label_studio: LabelStudio | None = None
) -> Starlette:
    """The page of a model. hosts: names it answers to, None for any. label_studio: its ML backend, too."""
    handlers: dict[Any, Any] = {
        UserError: _mistake,
        HTTPException: _refused,
        ClientDisconnect: _gone,
        Exception: _broken,
    }
    middleware = [Middleware(SecurityHeaders, hosts=hosts)]
    routes = Page(server, label_studio).routes()
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class Page:
    """The endpoints. What takes long runs in threads, few at a time."""

    def __init__(self, server: ModelServer, label_studio: LabelStudio | None = None) -> None:
        self.server = server
        self.label_studio = label_studio
        self.sessions = Sessions(server.shared, server.limits)
        self.limiter = anyio.CapacityLimiter(WORKERS)

    def routes(self) -> list[BaseRoute]:
        """All that the server answers to."""
        backend = [] if self.label_studio is None else self._backend(self.label_studio)
        return [
            *backend,
            Route("/", self.index),
            Route("/api/about", self.about),
            Route("/api/example/{index:int}.jpg", self.thumbnail),
            Route("/api/example/{index:int}", self.choose, methods=["POST"]),
            Route("/api/session", self.open, methods=["POST"]),
            Route("/api/session", self.state),
            Route("/api/sets", self.sets),
            Route("/api/picture", self.upload, methods=["POST"]),
            Route("/api/picture/{number:int}", self.turn, methods=["POST"]),
            Route("/api/picture/{number:int}/small.jpg", self.small),
            Route("/api/answer", self.ask, methods=["POST"]),
            Route("/api/pixel", self.pixel, methods=["POST"]),
            Route("/api/heat/{index:int}", self.heat),
            *(Route(f"/api/{name}", self.download) for name in DOWNLOADS),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    async def index(self, request: Request) -> Response:
        """The page."""
        return FileResponse(STATIC / "index.html")

    async def about(self, request: Request) -> Response:
        """Model, choices, limits, examples."""
        return JSONResponse(about(self.server))

    async def thumbnail(self, request: Request) -> Response:
        """A small example."""
        index = request.path_params["index"]
        return Response(await self._computed(lambda: jpeg(example_thumbnail(index))), media_type="image/jpeg")

    async def small(self, request: Request) -> Response:
        """A small picture of the visitor's."""
        picture = self._session(request).kept(request.path_params["number"])
        return Response(await self._computed(lambda: jpeg(thumbnail(picture.image))), media_type="image/jpeg")

    async def turn(self, request: Request) -> Response:
        """Put a picture of the visitor's on the page again."""
        return JSONResponse(picture_view(self._session(request).turn(request.path_params["number"])))

    async def open(self, request: Request) -> Response:
        """Begin a session."""
        if TOKEN_HEADER not in request.headers:
            raise HTTPException(403, "sessions are opened by the page only")
        return JSONResponse({"token": self.sessions.open()})

    async def state(self, request: Request) -> Response:
        """What a reloaded page shows again."""
        session = self._session(request)
        picture, answer = session.picture, session.answer
        return JSONResponse(
            {
                "roll": [picture_view(one) for one in list(session.roll.values())],
                "picture": None if picture is None else picture_view(picture),
                "question": answer and answer.question.json(),
            }
        )

    async def sets(self, request: Request) -> Response:
        """Class sets by name, words to suggest."""
        return JSONResponse({name: class_set(name) for name in class_set_names()})

    async def upload(self, request: Request) -> Response:
        """Take a picture: the file's bytes are the body, its name is the header x-name, percent-encoded."""
        session = self._session(request)
        content = await _body(request, self.server.limits.upload, "the file")
        name = plain_name(unquote(request.headers.get("x-name", "")))
        return JSONResponse(await self._computed(lambda: picture_view(self._read(session, name, content))))

    async def choose(self, request: Request) -> Response:
        """Put an example on the page."""
        session = self._session(request)
        index = request.path_params["index"]
        chosen = await self._computed(lambda: example(index))
        shown = picture_view(session.show(chosen.name, chosen.image, index))
        return JSONResponse(shown | {"words": chosen.words})

    async def ask(self, request: Request) -> Response:
        """Answer a question: a packed header and the mask."""
        session, raw = self._session(request), await self._json(request)
        question = SegmentRequest.parse(raw, self.server.limits)

        def answer() -> bytes:
            made = session.ask(question)
            return packed(answer_header(made, self.server.origin), made.result.mask)

        return _packed(await self._computed(answer))

    async def pixel(self, request: Request) -> Response:
        """The best words at {"row", "column"}."""
        session, raw = self._session(request), await self._json(request)
        row, column = (raw.get("row"), raw.get("column")) if isinstance(raw, dict) else (None, None)
        if type(row) is not int or type(column) is not int:
            raise UserError('a pixel is {"row": 3, "column": 5}')
        return JSONResponse(await self._computed(lambda: pixel_view(session.answered(), row, column)))

    async def heat(self, request: Request) -> Response:
        """The heat map of a class of the last answer, packed: probabilities, or scores with ?scale=contrast."""
        session, index = self._session(request), request.path_params["index"]
        contrast = request.query_params.get("scale") == "contrast"

        def heat() -> bytes:
            answer = session.answered()
            if index >= len(answer.result.classes):
                raise UserError(f"there is no class {index}; there are {len(answer.result.classes)}")
            name = answer.result.classes[index]
            levels, low, high = answer.heat(name, contrast=contrast)
            return packed({"name": name, "low": low, "high": high}, levels)

        return _packed(await self._computed(heat))

    async def download(self, request: Request) -> Response:
        """One of `DOWNLOADS`."""
        session = self._session(request)
        name = request.url.path.rpartition("/")[2]
        make, media = DOWNLOADS[name]
        return Response(await self._computed(lambda: make(session)), media_type=media)

    def _backend(self, label_studio: LabelStudio) -> list[BaseRoute]:
        """Label Studio's addresses. JSON only, which a browser does not send for another site unasked."""

        def answer(make: Callable[[object], Any], status: int) -> Callable[[Request], Awaitable[Response]]:
            async def answered(request: Request) -> Response:
                if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                    raise HTTPException(415, "send JSON, with content-type: application/json")
                asked = _parsed(await _body(request, self.server.limits.upload, "the request"))
                return JSONResponse(await self._computed(lambda: make(asked)), status)

            return answered

        async def health(request: Request) -> Response:
            return JSONResponse(label_studio.health())

        return [
            Route("/health", health),
            Route("/setup", answer(label_studio.setup, 200), methods=["POST"]),
            Route("/predict", answer(label_studio.predict, 200), methods=["POST"]),
            Route(
                "/webhook", answer(lambda event: {}, 201), methods=["POST"]
            ),  # nothing is learned from events
        ]

    def _session(self, request: Request) -> Session:
        return self.sessions.get(request.headers.get(TOKEN_HEADER, ""))

    def _read(self, session: Session, name: str, content: bytes) -> Picture:
        file = BytesIO(content)
        file.name = name  # what messages call it
        picture = session.show(name, read_image(file, max_pixels=self.server.limits.pixels))
        self.sessions.sweep()
        return picture

    async def _json(self, request: Request) -> object:
        return _parsed(await _body(request, 6 * self.server.limits.text, "the question"))  # 6: "\u00e9"

    async def _computed(self, make: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(make, limiter=self.limiter)


async def _body(request: Request, limit: int, what: str) -> bytes:
    """The body of a request, never more than `limit` bytes of it."""
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise HTTPException(413, f"{what} is larger than {limit / 2**20:.3g} MiB; make it smaller")
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("the question is no JSON; ask again") from None


def _packed(body: bytes) -> Response:
    headers = {"content-encoding": "gzip"}
    return Response(body, headers=headers, media_type="application/octet-stream")


DOWNLOADS: dict[str, tuple[Callable[[Session], bytes], str]] = {
    "picture.jpg": (lambda session: jpeg(session.shown().image), "image/jpeg"),
    "picture.png": (lambda session: picture_png(session.shown()), "image/png"),
    "mask.png": (lambda session: png(session.answered().result.indexed()), "image/png"),
    "overlay.png": (lambda session: png(session.answered().result.overlay()), "image/png"),
    "coco.json": (lambda session: coco_json(session.answered()), "application/json"),
}


def _said(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


async def _mistake(request: Request, error: UserError) -> Response:
    return _said(410 if isinstance(error, SessionEndedError) else 400, str(error))


async def _refused(request: Request, error: HTTPException) -> Response:
    return _said(error.status_code, error.detail)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return _said(400, "the visitor left")


async def _broken(request: Request, error: Exception) -> Response:
    """A defect of ours: the visitor gets a sentence, the terminal the traceback."""
    return _said(500, "something broke here, which is no fault of yours; the terminal of the page says more")


LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
CONNECTIONS = 64


@contextmanager
def serving(
    server: ModelServer, host: str = "127.0.0.1", port: int = 0, label_studio: LabelStudio | None = None
) -> Iterator[tuple[str, threading.Thread]]:
    """Serve the page in a thread while the block runs; yields its address and the thread.

    port: 0 for any free one. label_studio: its ML backend is served, too.
    Raises UserError if the address cannot be used.
    """
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    local = shown in LOOPBACK
    config = uvicorn.Config(
        make_app(server, LOOPBACK if local else None, label_studio),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()  # in a thread of its own, uvicorn leaves signals alone
    try:
        yield f"http://{shown}:{listener.getsockname()[1]}", thread
    finally:
        running.should_exit = True
        thread.join(10)
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except (OSError, OverflowError) as error:  # OverflowError: no such port
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port} cannot be served ({reason}); give another --host or --port") from None
    return listener
