"""Small PDF files, written byte by byte, with exactly the fault or layout that a test needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

PAGE_WIDTH, PAGE_HEIGHT = 612, 792
_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_FILE_ID = b"0123456789abcdef"
_PERMISSIONS = -4

# an object: its text, or the entries and the bytes of a stream
Body = str | tuple[str, bytes]
# text at (x, y) in points, at size 10
Placed = tuple[float, float, str]


def text_page(lines: Sequence[str]) -> bytes:
    """Lines from the top down, at the left margin."""
    return placed_page([(72, 720 - 12 * row, line) for row, line in enumerate(lines)])


def placed_page(items: Sequence[Placed]) -> bytes:
    """Pieces of text, each an object of its own, in the order given."""
    parts = [f"BT /F1 10 Tf {x} {y} Td ({escaped(text)}) Tj ET" for x, y, text in items]
    return "\n".join(parts).encode("latin-1")


def scanned_page(stamp: str = "") -> bytes:
    """A picture over the whole page, and maybe a few letters."""
    picture = f"q {PAGE_WIDTH} 0 0 {PAGE_HEIGHT} 0 0 cm /Im1 Do Q".encode()
    return picture + b"\n" + (text_page([stamp]) if stamp else b"")


def make_pdf(contents: Sequence[bytes | None]) -> bytes:
    """One page for each content stream; None makes a page whose object is missing."""
    return write_pdf(_objects(contents))


def make_locked_pdf(contents: Sequence[bytes], password: str) -> bytes:
    """The same under a password: 40-bit RC4, the standard handler's revision 2."""
    padded = (password.encode("latin-1") + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = (_PERMISSIONS & 0xFFFFFFFF).to_bytes(4, "little")
    key = hashlib.md5(padded + owner + permissions + _FILE_ID).digest()[:5]
    objects = _objects(contents)
    for number, body in objects.items():
        if isinstance(body, tuple):
            salt = number.to_bytes(3, "little") + bytes(2)
            stream_key = hashlib.md5(key + salt).digest()[:10]
            objects[number] = (body[0], _rc4(stream_key, body[1]))
    user = _rc4(key, _PADDING)
    trailer = (
        f"/ID [<{_FILE_ID.hex()}> <{_FILE_ID.hex()}>] /Encrypt << /Filter /Standard /V 1 /R 2 "
        f"/O <{owner.hex()}> /U <{user.hex()}> /P {_PERMISSIONS} >>"
    )
    return write_pdf(objects, trailer)


def _objects(contents: Sequence[bytes | None]) -> dict[int, Body]:
    objects: dict[int, Body] = {
        1: "<< /Type /Catalog /Pages 2 0 R >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: (
            "/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray "
            "/BitsPerComponent 8",
            b"\x80",
        ),
    }
    kids = []
    for index, content in enumerate(contents):
        number = 5 + 2 * index
        kids.append(f"{number} 0 R")
        if content is not None:
            objects[number] = (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {PAGE_WIDTH} {PAGE_HEIGHT}] "
                f"/Contents {number + 1} 0 R "
                "/Resources << /Font << /F1 3 0 R >> /XObject << /Im1 4 0 R >> >> >>"
            )
            objects[number + 1] = ("", content)
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    return dict(sorted(objects.items()))


def write_pdf(objects: dict[int, Body], trailer: str = "") -> bytes:
    """Write numbered objects: a text is the object itself, a pair is (entries, bytes) of a stream.

    Args:
        objects: Number 1 is the catalogue.
        trailer: Further entries of the trailer.
    """
    file = bytearray(b"%PDF-1.4\n")
    offsets = {}
    for number, body in objects.items():
        offsets[number] = len(file)
        file += f"{number} 0 obj\n".encode()
        if isinstance(body, tuple):
            file += f"<< {body[0]} /Length {len(body[1])} >>\nstream\n".encode()
            file += body[1] + b"\nendstream"
        else:
            file += body.encode()
        file += b"\nendobj\n"
    start, size = len(file), max(objects) + 1
    file += f"xref\n0 {size}\n0000000000 65535 f \n".encode()
    for number in range(1, size):
        kind = f"{offsets[number]:010} 00000 n" if number in offsets else "0000000000 00000 f"
        file += f"{kind} \n".encode()
    file += f"trailer << /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF".encode()
    return bytes(file)


def escaped(text: str) -> str:
    """Write a text as it stands between the brackets of a string."""
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    result, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        result.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(result)
