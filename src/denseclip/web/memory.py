"""Class embeddings kept in memory: a page writes nothing to disk."""

from threading import Lock

from denseclip.text.embeddings import EmbeddingCache, Rows


class MemoryCache(EmbeddingCache):
    """The rows of the words asked for last, at most `limit`, shared by all visitors of a page."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit_bytes=0)
        self.limit = limit
        self._lock = Lock()
        self._groups: dict[str, Rows] = {}

    def load(self, group: str) -> Rows:
        """All rows of a group, a copy that the caller may change."""
        with self._lock:
            return dict(self._groups.get(group, {}))

    def store(self, group: str, rows: Rows) -> None:
        """Add rows to a group; drop the oldest rows, of the oldest groups first, beyond the limit."""
        with self._lock:
            kept = self._groups.pop(group, {})
            self._groups[group] = kept | rows  # the latest group goes to the end
            over = sum(map(len, self._groups.values())) - self.limit
            for name in list(self._groups):
                if over <= 0:
                    break
                oldest = list(self._groups[name])[:over]
                for key in oldest:
                    del self._groups[name][key]
                over -= len(oldest)
