"""Guesses the encoding of bytes that are not UTF-8.

Knows which of two guessers to ask, and what to do where damage hides the encoding from both.
Must not know files.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from charset_normalizer import from_bytes

from nexusquant.documents.formats import legacy
from nexusquant.documents.formats.alphabets import CODECS as ALPHABET_CODECS
from nexusquant.documents.formats.alphabets import guess_alphabet
from nexusquant.documents.formats.east_asian import guess_east_asian
from nexusquant.documents.formats.latin import guess_latin

_EAST_ASIAN = [
    "gb18030",
    "gbk",
    "big5",
    "cp950",
    "big5hkscs",
    "cp932",
    "shift_jis",
    "shift_jis_2004",
    "euc_jp",
    "euc_jis_2004",
    "euc_kr",
    "cp949",
    "johab",
]
_CANDIDATES = [*(codec.replace("-", "_") for codec in ALPHABET_CODECS), *_EAST_ASIAN, "cp1258"]
# one damaged byte rules its neighbours out, and these take nearly any bytes
_TAKES_ALL = ("gbk", "gb18030")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_SAMPLE_BYTES = 60_000
_FEW_BYTES = 8
# a long text has many different letters; a block of nothing has not
_LONG, _FEW_KINDS = 200, 6
# a price or an angle; not even one letter of two bytes
_FEW_SIGNS = 3
_MIN_LEAD = 0.05
_NUM_VOTES = 9
# no byte below this is the second half of a character
_FIRST_TRAIL = 0x30
_MAX_TRIM = 3


@dataclass(frozen=True)
class Guess:
    """An encoding that bytes are most likely in.

    Args:
        codecs: Python's names: the first that decodes the whole text without a fault is right.
        is_certain: False if the text gives few clues.
    """

    codecs: tuple[str, ...]
    is_certain: bool


def guess(data: bytes) -> Guess | None:
    """Guess the encoding of bytes that are not UTF-8.

    Args:
        data: Lines that hold bytes above 127; the first 60,000 bytes count.

    Returns:
        None if they are in no encoding that is known.
    """
    data = data[:_SAMPLE_BYTES]
    if len(data) > _LONG and len(set(data)) < _FEW_KINDS:
        return None
    runs = _HIGH_RUN.findall(data)
    has_clues = sum(map(len, runs)) >= _FEW_BYTES
    if _looks_latin(data, runs):
        found = guess_latin(data)
        if found:
            return Guess(legacy.family(found.codec), has_clues and found.lead >= _MIN_LEAD)
    codec = _detected(data)
    if codec is None or codec in _TAKES_ALL:
        codec = _voted(data) or codec
    if codec:
        return Guess(legacy.family(codec), has_clues)
    return Guess(legacy.family("cp1252"), False) if _is_sparse(data, runs) else None


def _looks_latin(data: bytes, runs: list[bytes]) -> bool:
    """Tell whether bytes above 127 stand alone between other letters, as accents do."""
    num_high = sum(map(len, runs))
    num_alone = sum(len(run) for run in runs if len(run) <= 2)
    num_ascii = len(re.findall(rb"[A-Za-z]", data))
    is_sign = num_high <= _FEW_SIGNS and max(map(len, runs), default=1) == 1
    return is_sign or (num_alone >= 0.7 * num_high and num_ascii >= num_high)


def _is_sparse(data: bytes, runs: list[bytes]) -> bool:
    return sum(map(len, runs)) <= 0.1 * len(data)


def _detected(data: bytes) -> str | None:
    """Ask the library which letters these are, then ask who knows those."""
    # a sample may end within a character
    for end in range(len(data), max(0, len(data) - _MAX_TRIM - 1), -1):
        best = from_bytes(data[:end], cp_isolation=_CANDIDATES, enable_fallback=False).best()
        if best is not None and best.encoding in _CANDIDATES:
            return _refined(data[:end], legacy.known_codec(best.encoding))
        if data[end - 1] < _FIRST_TRAIL:
            return None
    return None


def _refined(data: bytes, codec: str | None) -> str | None:
    """Choose among encodings of the same kind: the library takes short texts for others."""
    if codec in ALPHABET_CODECS:
        return guess_alphabet(data)[0]
    if codec not in _EAST_ASIAN:
        return codec
    east_asian = guess_east_asian(data)
    alphabet, is_likely = guess_alphabet(data)
    return east_asian or (alphabet if is_likely else codec)


def _voted(data: bytes) -> str | None:
    """Ask for a few parts of the text one by one: damage hides the encoding of a whole."""
    lines = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    size = max(1, len(lines) // _NUM_VOTES)
    votes: Counter[str] = Counter()
    for start in range(0, size * _NUM_VOTES, size):
        codec = _detected(b"".join(lines[start : start + size]))
        if codec:
            votes[codec] += 1
    return votes.most_common(1)[0][0] if votes else None
