"""`denseclip serve`: a page for one picture and any words."""

import os
import signal
import threading
from typing import Annotated

import typer

from denseclip.cli import options as o
from denseclip.errors import need

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(help="0 for any free one.", min=0, max=65535)]
Preset = Annotated[str | None, typer.Option(help="The page's first choice; left out, the model's best one.")]
MaxPixels = Annotated[int, typer.Option("--max-pixels", help="Of a picture.", min=1)]
MaxUpload = Annotated[int, typer.Option("--max-upload", help="MiB of a picture's file.", min=1)]
MaxWords = Annotated[int, typer.Option("--max-words", help="Of one question, with synonyms.", min=1)]
LabelStudioOption = Annotated[
    bool, typer.Option("--label-studio", help="Also be an ML backend of Label Studio, on the same address.")
]
LabelStudioUrl = Annotated[
    str, typer.Option(envvar="LABEL_STUDIO_URL", help="Where it is; pictures are fetched from there.")
]
PictureHost = Annotated[
    list[str] | None, typer.Option(help="Another address that its tasks may have pictures from; repeatable.")
]
Browser = Annotated[bool, typer.Option("--browser", help="Open the page in the browser.")]


def serve(
    model: o.Model = "tiny-rn",
    host: Host = "127.0.0.1",
    port: Port = 7860,
    preset: Preset = None,
    max_pixels: MaxPixels = 25_000_000,
    max_upload: MaxUpload = 32,
    max_words: MaxWords = 500,
    activation: o.Activation = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    label_studio: LabelStudioOption = False,
    label_studio_url: LabelStudioUrl = "http://localhost:8080",
    picture_host: PictureHost = None,
    browser: Browser = False,
) -> None:
    """Serve a page: open pictures, type words, look, click, take the mask home.

    Pictures stay in this process's memory, each visitor sees their own; nothing is written to disk. With
    --label-studio annotators get masks of their labels live; its token is read from LABEL_STUDIO_API_KEY.
    """
    need("uvicorn", "the page")
    from denseclip.web.ml_backend import LabelStudio
    from denseclip.web.model_server import ModelServer
    from denseclip.web.request import Limits, Origin
    from denseclip.web.server import serving

    limits = Limits(upload=max_upload * 2**20, pixels=max_pixels, words=max_words)
    with o.status(f"loading {model}"):
        server = ModelServer.open(Origin(model, device, precision, activation), limits, preset)
    backend = None
    if label_studio:
        key = os.environ.get("LABEL_STUDIO_API_KEY")
        backend = LabelStudio(server, label_studio_url, key, picture_host or ())
    with serving(server, host, port, backend) as (address, thread):
        o.say(server.about()["text"])
        o.say(f"The page is on {address} until Ctrl-C")
        if backend:
            o.say(f"In Label Studio: Settings, Model, Connect Model, Backend URL {address}")
        if host not in ("127.0.0.1", "localhost", "::1"):
            o.say("Whoever reaches this machine can use the page.")
        if browser:
            typer.launch(address)
        _until_stopped(thread)


def _until_stopped(thread: threading.Thread) -> None:
    """Wait for Ctrl-C, a termination, or the server's own end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while thread.is_alive() and not stop.wait(0.5):
        pass
