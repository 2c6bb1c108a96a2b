"""Finds out how the bytes of a text are to be read: looks at all of them, keeps few.

Knows UTF-8 with faults, UTF-16 and UTF-32 with and without a mark, and what is no text at all.
Must not know formats or files.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from nexusquant.documents.formats import legacy
from nexusquant.documents.formats.guess import guess

Blocks = Callable[[], Iterable[bytes]]
"""Gives the bytes of a text from their beginning, as often as it is called."""

_MARKS = (
    # that of 32 bits first: it begins with that of 16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE_CODECS = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32), 127])
_SHIFTS = bytes([14, 15])
_HIGH = re.compile(rb"[\x80-\xff]")
_NOT_LEADS = bytes(range(0xC2))
_HIGH_BESIDE_LETTER = re.compile(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]")
_NO_LETTERS = bytes(
    byte for byte in range(256) if not (byte == 32 or (chr(byte).isalpha() and byte < 128))
)
# more of the bytes than that are never ASCII letters where a character has two
_MAX_LETTER_SHARE = 0.7
MAX_CONTROL_SHARE = 0.01
# blanks, stops and line ends, in any text of some length
_MIN_USUAL_SHARE = 0.01
# in other encodings whole lines rarely look like UTF-8; a few lines may be in another one
_MIN_PURE_PER_BAD = 0.2
# a line of a text in UTF-8 that is not
_MANY_FAULTS, _MAX_GOOD_SHARE = 4, 0.3
_HEAD_BYTES = 1 << 16
_SAMPLE_BYTES = 100_000
# of a long line, what stands in front of its first byte above 127
_LEAD_BYTES = 200
# blocks whose lines are looked at one by one: where all are faulty, a few tell enough
_MAX_FAULTY_BLOCKS = 4


@dataclass(frozen=True)
class Encoding:
    """How to read a text.

    Args:
        codec: Python's name; "utf-8" may have faults, which become U+FFFD.
        line_codec: For lines of a text in UTF-8 that were written by a program without it.
        skip: Bytes of the mark in front of the text.
        is_certain: False if the text gives few clues.
    """

    codec: str
    line_codec: str | None = None
    skip: int = 0
    is_certain: bool = True


class _Survey:
    """What one look at all bytes tells: how many are faults, and the lines that hold them."""

    def __init__(self) -> None:
        self.num_bytes = self.num_controls = self.num_shifts = 0
        self.num_good = self.num_bad = self.num_pure = self.num_faulty_blocks = 0
        self.head = b""
        self.faulty_lines: list[bytes] = []
        self._num_sampled = 0

    def add(self, block: bytes) -> None:
        """Take the next whole lines of the text."""
        self.num_bytes += len(block)
        self.num_controls += len(block) - len(block.translate(None, _CONTROLS))
        self.num_shifts += len(block) - len(block.translate(None, _SHIFTS))
        if len(self.head) < _HEAD_BYTES:
            self.head += block[: _HEAD_BYTES - len(self.head)]
        if block.isascii():
            return
        try:
            block.decode("utf-8")
        except UnicodeError:
            self._add_faulty(block)
        else:
            self._add_good(len(block.translate(None, _NOT_LEADS)))

    def _add_faulty(self, block: bytes) -> None:
        self.num_faulty_blocks += 1
        if self.num_faulty_blocks > _MAX_FAULTY_BLOCKS:
            return
        for line in block.splitlines(keepends=True):
            if line.isascii():
                continue
            num_bad, num_good = _count_faults(line)
            if not num_bad:
                self._add_good(num_good)
                continue
            self.num_bad += num_bad
            self.num_good += num_good
            if self._num_sampled < _SAMPLE_BYTES:
                found = _HIGH.search(line)
                first = max(0, found.start() - _LEAD_BYTES) if found else 0
                self.faulty_lines.append(line[first:][: _SAMPLE_BYTES - self._num_sampled])
                self._num_sampled += len(self.faulty_lines[-1])

    def _add_good(self, num_characters: int) -> None:
        """Count characters of lines without any fault."""
        self.num_good += num_characters
        self.num_pure += num_characters

    @property
    def is_utf8(self) -> bool:
        """Whether the text is UTF-8, if perhaps with faults: letters of others rarely look so."""
        if self.num_good >= self.num_bad:
            return True
        return self.num_pure >= _MIN_PURE_PER_BAD * self.num_bad


def _count_faults(line: bytes) -> tuple[int, int]:
    text = line.decode("utf-8", "replace")
    num_high = len(text) - len(text.encode("ascii", "ignore"))
    num_bad = text.count("\ufffd") - line.count(b"\xef\xbf\xbd")
    return num_bad, num_high - num_bad


def find_encoding(blocks: Blocks, *, declared: str | None = None) -> Encoding | None:
    """Find out how to read a text.

    Args:
        blocks: Its bytes.
        declared: The encoding that the text or what brought it names, in Python's words. It is
            taken if the text is not in UTF-8 and can be in that.

    Returns:
        None if the bytes are no text.
    """
    first = next(iter(blocks()), b"")
    for mark, codec in _MARKS:
        if first.startswith(mark):
            return Encoding(codec, skip=len(mark))
    survey = _Survey()
    for block in whole_lines(blocks()):
        survey.add(block)
    return _choose(survey, blocks, declared)


def _choose(survey: _Survey, blocks: Blocks, declared: str | None) -> Encoding | None:
    has_shifts = any(mark in survey.head for mark in legacy.SHIFT_MARKS)
    shifting = legacy.shifting_codec(survey.head) if has_shifts else None
    num_controls = survey.num_controls - (survey.num_shifts if shifting else 0)
    if num_controls > MAX_CONTROL_SHARE * survey.num_bytes:
        wide = _wide_codec(survey)
        return Encoding(wide) if wide else None
    if survey.is_utf8:
        if shifting and not survey.num_good:
            return Encoding(shifting)
        return Encoding("utf-8", line_codec=_line_codec(survey))
    sample = b"".join(survey.faulty_lines)
    if declared and declared != "utf-8" and _fits(sample, declared):
        codec = _best_fitting(legacy.family(declared), blocks)
        return Encoding(codec)
    guessed = guess(sample)
    if guessed is None:
        return None
    return Encoding(_best_fitting(guessed.codecs, blocks), is_certain=guessed.is_certain)


def _line_codec(survey: _Survey) -> str | None:
    lines = [line for line in survey.faulty_lines if is_foreign(line)]
    guessed = guess(b"".join(lines)) if lines else None
    return guessed.codecs[0] if guessed else None


def is_foreign(line: bytes) -> bool:
    """Tell whether a faulty line was written in another encoding than UTF-8.

    It then has no letter in UTF-8, and bytes above 127 beside letters, or next to nothing but
    bytes that cannot be UTF-8; a byte that stands alone is a fault.
    """
    num_bad, num_good = _count_faults(line)
    if num_good == 0 and num_bad and _HIGH_BESIDE_LETTER.search(line):
        return True
    return num_bad >= _MANY_FAULTS and num_good <= _MAX_GOOD_SHARE * num_bad


def _wide_codec(survey: _Survey) -> str | None:
    """Recognise 16 or 32 bits a character, without a mark, by what the text would then be."""
    head = survey.head
    if len(head.translate(None, _NO_LETTERS)) > _MAX_LETTER_SHARE * len(head):
        return None
    best, best_score = None, 0.0
    for codec in _WIDE_CODECS:
        try:
            text = codecs.getincrementaldecoder(codec)().decode(head)
        except UnicodeError:
            continue
        score = _usualness(text)
        if score > best_score:
            best, best_score = codec, score
    return best


def _usualness(text: str) -> float:
    """Score how usual the characters of a text are; 0 if it is nonsense.

    In the wrong order of bytes, ASCII becomes rare East Asian letters, and those of one alphabet
    are strewn over many.
    """
    if not text or sum(map(_is_odd, text)) > MAX_CONTROL_SHARE * len(text):
        return 0.0
    num_usual = sum(map(_is_usual, text))
    num_asian = sum("\u4e00" <= c < "\ua000" or "\uac00" <= c < "\ud7a4" for c in text)
    if num_usual < _MIN_USUAL_SHARE * len(text) or (num_asian and not num_usual):
        return 0.0
    num_alphabets = len({ord(c) >> 8 for c in text})
    return 1 + (num_usual + num_asian / 4 - num_alphabets) / len(text)


def _is_usual(character: str) -> bool:
    # ASCII, East Asian commas, stops and brackets, Kana
    return (
        " " <= character < "\x7f"
        or character in "\t\n\r\u3001\u3002\u300c\u300d\uff0c"
        or "\u3041" <= character < "\u3100"
    )


def _is_odd(character: str) -> bool:
    # controls, what is not assigned, private use, half characters
    is_control = unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")
    return is_control and character not in "\t\n\v\f\r\x1b"


def _fits(sample: bytes, codec: str) -> bool:
    decoder = codecs.getincrementaldecoder(legacy.family(codec)[-1])()
    try:
        decoder.decode(sample)
    except UnicodeError:
        return False
    return True


def _best_fitting(candidates: tuple[str, ...], blocks: Blocks) -> str:
    """Return the first encoding that decodes everything, or else the widest."""
    for codec in candidates[:-1]:
        decoder = codecs.getincrementaldecoder(codec)()
        try:
            for block in blocks():
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeError:
            continue
        return codec
    return candidates[-1]


def whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut blocks at line ends instead, or between characters of UTF-8 where a line is long."""
    rest = b""
    for block in blocks:
        # only once more has come: the last block is a line, whatever it ends with
        end = rest.rfind(b"\n") + 1 or _character_end(rest)
        if end:
            yield rest[:end]
        rest = rest[end:] + block
    if rest:
        yield rest


def _character_end(block: bytes) -> int:
    """Return where the last whole character ends; a lead byte may stand in the last three."""
    for back in range(1, min(3, len(block)) + 1):
        byte = block[-back]
        if byte >= 0xC0:
            return len(block) - back
        if byte < 0x80:
            break
    return len(block)
