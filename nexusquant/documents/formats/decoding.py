"""Bytes to text, piece by piece, counting what could not be read.

Knows line ends and faults. Must not know formats or files.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from nexusquant.documents.formats import legacy
from nexusquant.documents.formats.encoding import (
    MAX_CONTROL_SHARE,
    Blocks,
    Encoding,
    find_encoding,
    is_foreign,
    whole_lines,
)

_MAX_FAULT_SHARE = 0.1
_CONTROLS = "".join(map(chr, [*range(9), *range(14, 27), *range(28, 32), 127]))
_WITHOUT_CONTROLS = dict.fromkeys(map(ord, _CONTROLS))


class NotTextError(ValueError):
    """The bytes are no text."""


class Decoder:
    """Reads a text and keeps account of it.

    Args:
        blocks: The bytes.
        encoding: How to read them.
    """

    def __init__(self, blocks: Blocks, encoding: Encoding) -> None:
        self._blocks, self._encoding = blocks, encoding
        self.num_characters = 0
        self.num_faults = 0
        self.num_foreign_lines = 0

    def pieces(self) -> Iterator[str]:
        r"""Yield the text in order, every line end as "\n".

        Raises:
            NotTextError: Much of it cannot be read; known only at the end.
        """
        ends_with_return = False
        num_controls = 0
        for piece in self._decoded():
            if ends_with_return:
                piece = "\r" + piece
            ends_with_return = piece.endswith("\r")
            piece = piece.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
            num_controls += len(piece) - len(piece.translate(_WITHOUT_CONTROLS))
            self.num_characters += len(piece)
            self.num_faults += piece.count("\0")
            yield piece.replace("\0", "\ufffd")
        if ends_with_return:
            yield "\n"
        self._check(num_controls)

    def _check(self, num_controls: int) -> None:
        is_utf8 = self._encoding.codec == "utf-8"
        if num_controls > MAX_CONTROL_SHARE * self.num_characters:
            raise NotTextError
        if not is_utf8 and self.num_faults > _MAX_FAULT_SHARE * self.num_characters:
            raise NotTextError

    def _decoded(self) -> Iterator[str]:
        blocks = self._without_mark()
        if self._encoding.codec == "utf-8":
            for block in whole_lines(blocks):
                yield from self._utf8(block)
            return
        decoder = codecs.getincrementaldecoder(self._encoding.codec)("replace")
        for block in blocks:
            yield self._counted(decoder.decode(block))
        yield self._counted(decoder.decode(b"", final=True))

    def _without_mark(self) -> Iterator[bytes]:
        skip = self._encoding.skip
        for block in self._blocks():
            yield block[skip:]
            skip = 0

    def _counted(self, text: str) -> str:
        self.num_faults += text.count("\ufffd")
        return text

    def _utf8(self, block: bytes) -> Iterator[str]:
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError:
            yield "".join(map(self._faulty_line, block.splitlines(keepends=True)))
        else:
            yield text

    def _faulty_line(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            pass
        codec = self._encoding.line_codec
        if codec and is_foreign(line):
            self.num_foreign_lines += 1
            return self._counted(line.decode(codec, "replace"))
        # those that the text itself holds are no faults
        self.num_faults -= line.count(b"\xef\xbf\xbd")
        return self._counted(line.decode("utf-8", "replace"))

    def notes(self) -> tuple[str, ...]:
        """Say in sentences how the text was read, if not simply as UTF-8."""
        found = []
        encoding = self._encoding
        if encoding.codec != "utf-8":
            found.append(f"Read as {legacy.display_name(encoding.codec)}.")
        if not encoding.is_certain:
            found[-1] = found[-1].removesuffix(".") + (
                ", which is a guess: the text gives few clues. If letters look wrong, save it as "
                "UTF-8 and open it again."
            )
        if self.num_foreign_lines and encoding.line_codec:
            name = legacy.display_name(encoding.line_codec)
            one, many = f"One line was read as {name}", f"lines were read as {name}"
            found.append(f"{_count(self.num_foreign_lines, one, many)}, the others as UTF-8.")
        if self.num_faults:
            one, many = "One damaged character stands", "damaged characters stand"
            found.append(f"{_count(self.num_faults, one, many)} as \ufffd in the text.")
        return tuple(found)


def _count(number: int, one: str, many: str) -> str:
    return one if number == 1 else f"{number:,} {many}"


def decode(data: bytes, *, declared: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Decode bytes that are in memory.

    Args:
        data: The bytes.
        declared: The encoding that they are said to be in, in Python's words.

    Returns:
        The text, and notes on how it was read.

    Raises:
        NotTextError: The bytes are no text.
    """
    encoding = find_encoding(lambda: (data,), declared=declared)
    if encoding is None:
        raise NotTextError
    decoder = Decoder(lambda: (data,), encoding)
    text = "".join(decoder.pieces())
    return text, decoder.notes()
