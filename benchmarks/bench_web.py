"""The page: how long a visitor waits for an answer, from the request to the mask in hand, in milliseconds.

The embedded tiny-rn and an example scene of 512 x 512. Questions change what visitors change: a new word that was
never asked before, a word less, the threshold, background words, both refinements, and back to a preset that was used
before; the network has seen the picture. The first look at a picture is shown beside it.
"""

import gzip
import http.client
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

from denseclip.web.app import serving
from denseclip.web.model_server import ModelServer
from denseclip.web.request import Limits, Origin, SegmentRequest
from denseclip.web.views import unpacked

NEW_WORDS = (
    "frog",
    "pizza",
    "rocket",
    "guitar",
    "castle",
    "lantern",
    "dragon",
    "bicycle",
    "teapot",
    "violin",
)


def run() -> dict[str, float]:
    """The median over all changes; each kind's own is printed."""
    with serving(ModelServer.open(Origin("tiny-rn"), Limits())) as (address, _):
        visitor = _Visitor(address)
        visitor.post("/api/example/0", {})
        start = SegmentRequest("water, horse, cup, onion, banana, dog, car, sky", "maskclip-dilated")
        looks = [visitor.timed(replace(start, preset=preset)) for preset in ("maskclip", "maskclip-dilated")]
        times: dict[str, list[float]] = {}
        for kind, asked in changes(start):
            times.setdefault(kind, []).append(visitor.timed(asked))
    print(f"  first look at a picture {statistics.median(looks):6.0f} ms")
    for kind, several in times.items():
        print(f"  {kind:23s} {statistics.median(several):6.0f} ms")
    return {"web_answer_ms": statistics.median(one for several in times.values() for one in several)}


def changes(start: SegmentRequest) -> Iterator[tuple[str, SegmentRequest]]:
    """What a visitor does, kind by kind in turn."""
    asked = start
    for i, word in enumerate(NEW_WORDS):
        asked = replace(asked, words=f"{asked.words}, {word}|{word} toy")
        yield "two new words", asked
        yield "fewer words", replace(asked, words=asked.words.partition(", ")[2])
        yield "threshold", replace(asked, threshold=0.3 + i / 50)
        yield "background words", replace(asked, background="usual")
        yield "prompt denoising", replace(asked, refine=f"pd={0.2 + i / 50:g}")
        yield "key smoothing", replace(asked, refine=f"ks={0.8 + i / 50:g}")
        yield "preset", replace(asked, preset="maskclip")


class _Visitor:
    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=600)
        self.token = "new"
        self.token = json.loads(self.post("/api/session", {}))["token"]

    def post(self, path: str, sent: object) -> bytes:
        self.connection.request("POST", path, json.dumps(sent), {"x-denseclip": self.token})
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    def timed(self, asked: SegmentRequest) -> float:
        start = time.perf_counter()
        unpacked(gzip.decompress(self.post("/api/answer", asked.json())))
        return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    print(run())
