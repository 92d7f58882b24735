"""Running the page: a socket, a thread, an end."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from denseclip.errors import UserError
from denseclip.web.app import make_app
from denseclip.web.ml_backend import LabelStudio
from denseclip.web.model_server import ModelServer

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
