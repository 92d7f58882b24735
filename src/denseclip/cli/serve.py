"""`denseclip serve`: a page for one picture and any words."""

import os
import signal
import threading
from typing import Unpack

import typer

from denseclip.cli import options as o
from denseclip.errors import need


@o.command(
    *("model", "host", "port", "preset", "activation", "device", "precision", "browser"),
    *("max_pixels", "max_upload", "max_words", "label_studio", "label_studio_url", "picture_host"),
)
def serve(**options: Unpack[o.Options]) -> o.Done[str]:
    """Serve a page: open pictures, type words, look, click, take the mask home.

    Pictures stay in this process's memory, each visitor sees their own; nothing is written to disk. With
    --label-studio annotators get masks of their labels live; its token is read from LABEL_STUDIO_API_KEY.
    """
    need("uvicorn", "the page")
    from denseclip.web.app import serving
    from denseclip.web.ml_backend import LabelStudio
    from denseclip.web.model_server import ModelServer
    from denseclip.web.request import Limits, Origin

    given = o.values(options)
    limits = Limits(upload=given["max_upload"] * 2**20, pixels=given["max_pixels"], words=given["max_words"])
    origin = Origin(given["model"], given["device"], given["precision"], given["activation"])
    preset = None if given["preset"] == "auto" else given["preset"]
    with o.status(f"loading {given['model']}"):
        server = ModelServer.open(origin, limits, preset)
    backend = None
    if given["label_studio"]:
        key = os.environ.get("LABEL_STUDIO_API_KEY")
        backend = LabelStudio(server, given["label_studio_url"], key, given["picture_host"] or ())
    with serving(server, given["host"], given["port"], backend) as (address, thread):
        o.say(server.about()["text"])
        o.say(f"The page is on {address} until Ctrl-C")
        if backend:
            o.say(f"In Label Studio: Settings, Model, Connect Model, Backend URL {address}")
        if given["host"] not in ("127.0.0.1", "localhost", "::1"):
            o.say("Whoever reaches this machine can use the page.")
        if given["browser"]:
            typer.launch(address)
        _until_stopped(thread)
    return o.Done(address)


def _until_stopped(thread: threading.Thread) -> None:
    """Wait for Ctrl-C, a termination, or the server's own end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while thread.is_alive() and not stop.wait(0.5):
        pass
