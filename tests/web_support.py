"""A page around a small random CLIP, and a visitor without a browser."""

import gzip
import http.client
import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from clip_support import tiny_clip
from denseclip.web.model_server import MemoryCache, ModelServer
from denseclip.web.request import Limits, Origin, SegmentRequest
from denseclip.web.session import SharedModel
from denseclip.web.views import unpacked


def shared(kind: str = "rn") -> SharedModel:
    return SharedModel(tiny_clip(kind), MemoryCache(1000))


def server(limits: Limits | None = None) -> ModelServer:
    return ModelServer(shared(), Origin("random-rn"), limits or Limits(), "maskclip")


def question(words: str = "cat, red car|automobile, grass", **changes: Any) -> SegmentRequest:
    return SegmentRequest(words, **{"preset": "maskclip", "templates": "1", "size": 256, **changes})


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Visitor:
    """Speaks to a page as its scripts do. `token` "new" opens a session on first use."""

    address: str
    token: str = "new"

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        host, port = self.address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        sent = {"x-denseclip": self.token} if self.token else {}
        connection.request(method, path, body, sent | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        content, said = answer.read(), dict(answer.getheaders())
        connection.close()
        if said.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        return answer.status, content, said

    def open(self) -> "Visitor":
        self.token = self.json("POST", "/api/session")["token"]
        return self

    def json(self, method: str, path: str, sent: Any = None) -> Any:
        body = None if sent is None else json.dumps(sent).encode()
        status, content, _ = self.send(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def upload(self, content: bytes, name: str = "noise.png") -> Any:
        status, said, _ = self.send("POST", "/api/picture", content, x_name=name)
        return status, json.loads(said)

    def ask(self, asked: SegmentRequest) -> tuple[dict[str, Any], np.ndarray]:
        status, content, _ = self.send("POST", "/api/answer", json.dumps(asked.json()).encode())
        assert status == 200, content
        return unpacked(content)
