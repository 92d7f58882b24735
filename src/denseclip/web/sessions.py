"""All visitors, each behind a secret that only their page knows."""

import secrets
import time
from collections import OrderedDict
from threading import Lock

from denseclip.errors import UserError
from denseclip.web.limits import Limits
from denseclip.web.session import Held, Session


class SessionEndedError(UserError):
    """The visitor is not, or no longer, remembered."""


class Sessions:
    """Sessions by token; those longest unused are forgotten when there are too many, or too many pixels."""

    def __init__(self, held: Held, limits: Limits) -> None:
        self.held = held
        self.limits = limits
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> str:
        """Begin a session; returns its token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[token] = Session(self.held, self.limits)
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
