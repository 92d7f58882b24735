"""What a page takes from its visitors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a page.

    upload: bytes of a picture's file. pixels: of a picture. words: prompts of one question, with synonyms and
    background words. text: characters of one question. sessions: visitors that are remembered; all_pixels: of all
    their pictures together; idle: seconds after which a visitor is forgotten. rows: word vectors kept in memory.
    """

    upload: int = 32 * 2**20
    pixels: int = 25_000_000
    words: int = 500
    text: int = 200_000
    sessions: int = 64
    all_pixels: int = 200_000_000
    idle: float = 2 * 3600
    rows: int = 20_000
