"""An ML backend of Label Studio: its requests in, pre-annotations out.

What is sent and expected: https://labelstud.io/guide/ml_create and the package label-studio-ml. Labels are those of
the interface's first `BrushLabels`, `PolygonLabels` or `RectangleLabels` over an `Image`; the words of a label are
its `predicted_values`, its name unless there are any.
"""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as Xml

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.data.images import read_image
from denseclip.errors import UserError
from denseclip.label.formats.label_studio import encode_brush
from denseclip.segment.paint import background_of
from denseclip.segment.regions import Regions, along_edges, find_regions
from denseclip.text import ClassPrompts
from denseclip.web.model_server import ModelServer
from denseclip.web.request import SegmentRequest

CONTROLS = ("BrushLabels", "PolygonLabels", "RectangleLabels")
SMALLEST = 1e-3  # share of the picture that a region covers at least
PROJECTS = 200  # whose settings are remembered
TIMEOUT = 30  # seconds, for a picture


@dataclass(frozen=True)
class Interface:
    """What of a labeling interface matters: names and kind of the control, where the picture is, the words.

    source, target: names of the control tag and of the image tag. key: of a task's data.
    """

    kind: str
    source: str
    target: str
    key: str
    prompts: ClassPrompts

    @classmethod
    def parse(cls, text: object) -> "Interface":
        """Read a labeling configuration (XML). Raises UserError where it has nothing to paint, or no picture."""
        if not isinstance(text, str) or "<!" in text:  # no entities, which could grow without bounds
            raise UserError("the labeling interface is no XML; send the project's label_config")
        try:
            view = Xml.fromstring(text)  # noqa: S314 without a document type nothing can be expanded
        except Xml.ParseError as error:
            raise UserError(
                f"the labeling interface is no XML ({error}); send the project's label_config"
            ) from None
        images = {image.get("name", ""): image.get("value", "") for image in view.iter("Image")}
        for control in view.iter():
            target = control.get("toName", "").split(",")[0]
            if control.tag in CONTROLS and target in images:
                entries = {label.get("value", ""): _words(label) for label in control.iter("Label")}
                key = images[target].removeprefix("$")
                return cls(control.tag, control.get("name", ""), target, key, ClassPrompts.parse(entries))
        raise UserError(f"the labeling interface has none of {', '.join(CONTROLS)} over an Image; add one")


def _words(label: Xml.Element) -> list[str]:
    words = [word.strip() for word in label.get("predicted_values", "").split(",") if word.strip()]
    return words or [label.get("value", "")]


@dataclass
class LabelStudio:
    """Answers for a Label Studio at `address`.

    Pictures are fetched from there, with `key`, and from the addresses `others` without it, from nowhere else.
    """

    server: ModelServer
    address: str = "http://localhost:8080"
    key: str | None = None
    others: Sequence[str] = ()
    _projects: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """What Label Studio shows predictions under."""
        return f"denseclip {self.server.about()['text'].partition(':')[0]}"

    def health(self) -> dict[str, Any]:
        """The answer to GET /health."""
        return {"status": "UP", "model_class": "denseclip", "model_version": self.version}

    def setup(self, asked: object) -> dict[str, Any]:
        """The answer to POST /setup: the project's interface and parameters are looked at, and remembered.

        The parameters are JSON with fields of `SegmentRequest`, such as {"threshold": 0.3}. Raises UserError for an
        interface or parameters that cannot be used.
        """
        body = _object(asked)
        extra = body.get("extra_params") or {}
        if isinstance(extra, str):
            try:
                extra = json.loads(extra)
            except ValueError:
                raise UserError(
                    'the extra parameters are no JSON; write them like {"threshold": 0.3}'
                ) from None
        schema = str(body.get("schema") or "")
        if schema:  # Label Studio sets up before there is an interface
            interface = Interface.parse(schema)
            settings = self._request(interface, _object(extra)).settings(self.server.shared.model.recommended)
            background = self.server.shared.fitting(interface.prompts, settings).background
            (
                background.prompts(interface.prompts),
                background.names(interface.prompts),
            )  # what cannot be is told now
        self._projects[str(body.get("project"))] = schema, dict(_object(extra))
        while len(self._projects) > PROJECTS:
            del self._projects[next(iter(self._projects))]
        return {"model_version": self.version}

    def predict(self, asked: object) -> dict[str, Any]:
        """The answer to POST /predict: a prediction for each task, in order, empty where its picture failed.

        Raises UserError for a request that cannot be meant, or if all tasks failed.
        """
        body = _object(asked)
        schema, extra = self._projects.get(str(body.get("project")), ("", {}))
        interface = Interface.parse(body.get("label_config") or schema)
        tasks = body.get("tasks")
        if not isinstance(tasks, list):
            raise UserError("the request has no list of tasks")
        results, failed = [], []
        for task in tasks:
            try:
                results.append(self._predicted(_object(task), interface, extra))
            except UserError as error:
                failed.append(str(error))
                results.append(
                    {"result": [], "score": 0.0, "model_version": self.version, "error": str(error)}
                )
        if failed and len(failed) == len(tasks):
            raise UserError(failed[0])
        return {"results": results, "model_version": self.version}

    def _request(self, interface: Interface, extra: Mapping[str, Any]) -> SegmentRequest:
        asked = {"words": json.dumps(interface.prompts.to_dict()), "preset": self.server.preset, **extra}
        request = SegmentRequest.parse(asked, self.server.limits)
        request.prompts(self.server.limits)
        return request

    def _predicted(
        self, task: Mapping[str, Any], interface: Interface, extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        where = _object(task.get("data")).get(interface.key)
        if not isinstance(where, str) or not where:
            raise UserError(f"task {task.get('id')} has no picture under {interface.key!r}")
        file = BytesIO(self._fetch(where, task.get("id")))
        file.name = where[:80]
        image = read_image(file, max_pixels=self.server.limits.pixels)
        request = self._request(interface, extra)
        segmenter = self.server.shared.segmenter(
            interface.prompts, request.settings(self.server.shared.model.recommended)
        )
        result = segmenter.segment(image, confidence=True)
        assert result.confidence is not None
        background = background_of(result.classes)
        regions = find_regions(result.mask, () if background is None else (background,))
        regions = regions.only(regions.area >= SMALLEST * result.mask.size)
        scores = regions.means(result.confidence)
        found = [
            _region(
                interface, regions, index, result.classes[regions.label[index]], float(scores[index]), where
            )
            for index in range(len(regions))
        ]
        score = float(np.average(scores, weights=regions.area)) if len(regions) else 0.0
        return {"result": found, "score": round(score, 4), "model_version": self.version}

    def _fetch(self, where: str, task: object) -> bytes:
        """The bytes of a task's picture. Raises UserError for what is not to be had, or not to be asked for."""
        if where.startswith("data:"):
            head, _, content = where.partition(",")
            return base64.b64decode(content) if head.endswith(";base64") else b""
        base = self.address.rstrip("/")
        if where.startswith(("s3://", "gs://", "azure-blob://")):
            where = f"/tasks/{task}/presign/?fileuri={urllib.parse.quote(where, safe='')}"
        if where.startswith(("upload/", "/upload/")):
            where = f"/data/{where.lstrip('/')}"
        if where.startswith("/"):
            where = base + where
        parts = urllib.parse.urlsplit(where)
        allowed = [urllib.parse.urlsplit(one) for one in (base, *self.others)]
        places = [(one.scheme, one.netloc) for one in allowed]
        if (parts.scheme, parts.netloc) not in places:
            raise UserError(
                f"pictures are fetched from {', '.join(f'{a}://{b}' for a, b in places)} only, and {where[:80]!r} is "
                "elsewhere; add --picture-host"
            )
        request = urllib.request.Request(where)  # noqa: S310 the scheme is that of an allowed address
        if self.key and (parts.scheme, parts.netloc) == places[0]:
            request.add_unredirected_header("Authorization", f"Token {self.key}")  # other hosts never see it
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                content = answer.read(self.server.limits.upload + 1)
        except urllib.error.HTTPError as error:
            hint = "; set LABEL_STUDIO_API_KEY" if error.code in (401, 403) else ""
            raise UserError(f"picture {where[:80]!r} was refused ({error.code}){hint}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"picture {where[:80]!r} cannot be fetched ({error})") from None
        if len(content) > self.server.limits.upload:
            raise UserError(
                f"picture {where[:80]!r} is larger than {self.server.limits.upload / 2**20:.3g} MiB"
            )
        return content


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError("this is no request of Label Studio; send a JSON object")
    return value


def _region(
    interface: Interface, regions: Regions, index: int, name: str, score: float, picture: str
) -> dict[str, Any]:
    """A region in Label Studio's form; places of boxes and polygons are percent of the picture."""
    x, y, width, height = regions.box[index].tolist()
    across, down = 100 / regions.width, 100 / regions.height
    crop = regions.crop(index)
    if interface.kind == "BrushLabels":
        plane = np.zeros((regions.height, regions.width), bool)
        plane[y : y + height, x : x + width] = crop
        value: dict[str, Any] = {"format": "rle", "rle": list(encode_brush(plane)), "brushlabels": [name]}
    elif interface.kind == "PolygonLabels":
        outline = _outline(crop) + np.array((x, y))
        value = {
            "points": (outline * (across, down)).round(3).tolist(),
            "closed": True,
            "polygonlabels": [name],
        }
    else:
        box = {
            "x": x * across,
            "y": y * down,
            "width": width * across,
            "height": height * down,
            "rotation": 0,
        }
        value = box | {"rectanglelabels": [name]}
    return {
        "id": sha256(f"{picture}/{index}".encode()).hexdigest()[:10],
        "type": interface.kind.lower(),
        "from_name": interface.source,
        "to_name": interface.target,
        "original_width": regions.width,
        "original_height": regions.height,
        "image_rotation": 0,
        "score": round(score, 4),
        "value": value,
    }


def _outline(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The rim of a region's largest part with its holes, (N, 2) x, y, within a pixel, at least 3 points."""
    rim = max(along_edges(region), key=lambda path: abs(cv2.contourArea(path.astype(np.float32))))
    near = cv2.approxPolyDP(rim.astype(np.float32), 1.0, closed=True)[:, 0]
    return np.asarray(near if len(near) > 2 else rim, np.float64)
