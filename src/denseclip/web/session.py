"""Visitors: a picture encoded once, and the answers to what is asked about it."""

import secrets
import time
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from denseclip.clip import Clip
from denseclip.errors import UserError
from denseclip.segment.refine import REMOVED
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Encoded, Model, Segmenter
from denseclip.segment.settings import Background, Refinement, Settings, has_background
from denseclip.text import ClassPrompts, EmbeddingCache
from denseclip.web.request import Limits, SegmentRequest


@dataclass(frozen=True)
class SharedModel:
    """The model of a page and the word vectors it has made, shared by all visitors."""

    model: Model
    cache: EmbeddingCache

    def segmenter(self, prompts: ClassPrompts, settings: Settings) -> Segmenter:
        """The model under words and settings; nothing of another visitor's is in it."""
        return Segmenter(self.model, prompts, self.fitting(prompts, settings), cache=self.cache)

    def fitting(self, prompts: ClassPrompts, settings: Settings) -> Settings:
        """No background by itself where the words have one; neither that nor the filter for trained models."""
        if settings.background.auto and (not isinstance(self.model, Clip) or has_background(prompts)):
            settings = replace(settings, background=replace(settings.background, auto=False))
        if settings.refine.guided and not isinstance(self.model, Clip):
            settings = replace(settings, refine=replace(settings.refine, guided=False))
        return settings


@dataclass(frozen=True)
class Picture:
    """A picture of the page: the file's name, (H, W, 3) uint8 RGB, its number in the session, below 0: an example."""

    name: str
    image: NDArray[np.uint8]
    number: int = 1


@dataclass(frozen=True)
class WordScore:
    """A word at a pixel: its class, its score, a CLIP's being a cosine, and its share of the soft-max in 0..1."""

    word: str
    owner: str
    score: float
    share: float


@dataclass(frozen=True)
class Answer:
    """A segmented picture with the question behind it. seconds: how long it took; encoded: anew, not from cache."""

    shared: SharedModel
    question: SegmentRequest
    picture: Picture
    segmenter: Segmenter
    view: Encoded
    result: Segmentation
    seconds: float
    encoded: bool

    @property
    def prompts(self) -> ClassPrompts:
        """The visitor's classes with their words, behind the background and its words if there are any."""
        return self.segmenter.settings.background.prompts(ClassPrompts.parse(self.question.classes))

    def words_at(self, row: int, column: int, count: int = 8) -> list[WordScore]:
        """The best words of one pixel, before refinement and thresholds, synonyms each by itself."""
        height, width = self.result.mask.shape
        if not (0 <= row < height and 0 <= column < width):
            raise UserError(f"there is no pixel ({row}, {column}) in {height} x {width}; click inside")
        prompts = self.prompts
        each = self.shared.segmenter(
            ClassPrompts(prompts.words, tuple((word,) for word in prompts.words)),
            replace(self.segmenter.settings, refine=Refinement(), background=Background()),
        )
        scores = each.decoding(fitting(self.view, each.settings)).at(row, column)  # (P,)
        shares = (scores * each.clip.logit_scale).softmax(0)
        return [
            WordScore(
                prompts.words[i],
                prompts.classes[prompts.class_of_prompt[i]],
                float(scores[i]),
                float(shares[i]),
            )
            for i in scores.argsort(descending=True)[:count].tolist()
        ]

    def heat(self, name: str, *, contrast: bool = False) -> tuple[NDArray[np.uint8], float, float]:
        """A class as levels (H, W) of 0..255, and what these two ends stand for.

        They are the probabilities 0 and 1, or, `contrast`, the lowest and the highest score of the picture.
        Raises UserError if the class has no scores, or prompt denoising took it out.
        """
        scores = self.result.heatmap(name)
        low, high = float(scores.min()), float(scores.max())
        if high < REMOVED / 2:  # far below any cosine
            raise UserError(
                f"prompt denoising took {name!r} out; lower its threshold to see where it was likely"
            )
        if not contrast:
            return (self.result.probability(name) * 255).round().astype(np.uint8), 0.0, 1.0
        levels = (scores - low) * (255 / max(high - low, 1e-12))
        return levels.round().astype(np.uint8), low, high


@dataclass
class Session:
    """What is remembered of one visitor. Calls may come from several threads; they wait for each other."""

    shared: SharedModel
    limits: Limits
    picture: Picture | None = None
    answer: Answer | None = None
    used: float = field(default_factory=time.monotonic)
    roll: dict[int, Picture] = field(default_factory=dict)  # the visitor's own pictures, by number
    _views: OrderedDict[tuple[int, Settings], Encoded] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def pixels(self) -> int:
        """Of the pictures that are kept."""
        return sum(picture.image[..., 0].size for picture in list(self.roll.values()))

    def show(self, name: str, image: NDArray[np.uint8], example: int | None = None) -> Picture:
        """Put another picture (H, W, 3) uint8 on the page; own ones are kept, the oldest go beyond `Limits.roll`."""
        with self._lock:
            number = max(self.roll, default=0) + 1 if example is None else -1 - example
            picture = self.picture = Picture(name, image, number)
            self.answer = None
            if example is None:
                self.roll[number] = picture
                while self.pixels > self.limits.roll and len(self.roll) > 1:
                    gone = next(iter(self.roll))
                    del self.roll[gone]
                    for key in [key for key in self._views if key[0] == gone]:
                        del self._views[key]
            return picture

    def turn(self, number: int) -> Picture:
        """Put a picture that is kept on the page again; UserError if it is not."""
        with self._lock:
            self.picture, self.answer = self.kept(number), None
            return self.picture

    def kept(self, number: int) -> Picture:
        """A picture of the roll; UserError if it is not there."""
        if number not in self.roll:
            raise UserError("this picture is no longer kept; open it again")
        return self.roll[number]

    def ask(self, question: SegmentRequest) -> Answer:
        """Segment the picture. Raises UserError if there is none, or the question cannot be answered."""
        with self._lock:
            start = time.perf_counter()
            picture = self.shown()
            segmenter = self.shared.segmenter(
                question.prompts(self.limits), question.settings(self.shared.model.recommended)
            )
            view, encoded = self._view(segmenter, picture)
            result = segmenter.segment(view)
            seconds = time.perf_counter() - start
            self.answer = Answer(self.shared, question, picture, segmenter, view, result, seconds, encoded)
            return self.answer

    def shown(self) -> Picture:
        """The picture on the page; UserError if there is none."""
        if self.picture is None:
            raise UserError(NO_PICTURE)
        return self.picture

    def answered(self) -> Answer:
        """The last answer; UserError if there is none."""
        if self.answer is None:
            raise UserError(NO_ANSWER if self.picture else NO_PICTURE)
        return self.answer

    def _view(self, segmenter: Segmenter, picture: Picture) -> tuple[Encoded, bool]:
        """The picture's features, from memory if the network has seen it this way; and whether it had not.

        A CLIP's keys are always encoded, so that key smoothing can be switched on and off without the network.
        """
        settings = segmenter.settings
        keys = replace(settings.refine, ks=1.0) if isinstance(segmenter.clip, Clip) else settings.refine
        key = picture.number, replace(settings, refine=keys).query()
        fresh = key not in self._views
        if fresh:
            keyed = copy(segmenter)
            keyed.configure(refine=keys)
            self._views[key] = keyed.encode(picture.image)
        self._views.move_to_end(key)
        while len(self._views) > ENCODINGS:
            self._views.popitem(last=False)
        return fitting(self._views[key], settings), fresh


def fitting(view: Encoded, settings: Settings) -> Encoded:
    """A picture encoded with keys, for settings that differ in key smoothing only."""
    return replace(view, made_by=(view.made_by[0], settings.query()))


class SessionEndedError(UserError):
    """The visitor is not, or no longer, remembered."""


class Sessions:
    """Sessions by token; those longest unused are forgotten when there are too many, or too many pixels."""

    def __init__(self, shared: SharedModel, limits: Limits) -> None:
        self.shared = shared
        self.limits = limits
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> str:
        """Begin a session; returns its token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[token] = Session(self.shared, self.limits)
        self.sweep()
        return token

    def get(self, token: str) -> Session:
        """The session of a token. Raises SessionEndedError if it is not known."""
        with self._lock:
            session = self._sessions.get(token)
            if session is None or time.monotonic() - session.used > self.limits.idle:
                raise SessionEndedError("this session has ended; open the picture again")
            session.used = time.monotonic()
            self._sessions.move_to_end(token)
            return session

    def sweep(self) -> None:
        """Forget sessions beyond the limits, the longest unused first; the latest always stays."""
        with self._lock:
            pixels = sum(session.pixels for session in self._sessions.values())
            for token, session in list(self._sessions.items())[:-1]:
                idle = time.monotonic() - session.used > self.limits.idle
                crowded = len(self._sessions) > self.limits.sessions or pixels > self.limits.all_pixels
                if idle or crowded:
                    pixels -= session.pixels
                    del self._sessions[token]


ENCODINGS = 6  # of one visitor's pictures, under different presets and sizes
NO_PICTURE = "there is no picture yet; choose an example or open one of yours"
NO_ANSWER = "nothing is segmented yet; write words first"
