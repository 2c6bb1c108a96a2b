"""PDFs that are small and do harm, or look right and are not, written byte by byte."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from pdf_files import Body, write_pdf

HELLO = b"BT /F1 10 Tf 72 700 Td (Hello) Tj ET"
_FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
_RESOURCES = "/Resources << /Font << /F1 3 0 R /F2 6 0 R >> /XObject << /X 6 0 R >> >>"
DESCRIPTOR = (
    "<< /Type /FontDescriptor /FontName /AAAAAB+Subset /Flags 4 /FontBBox [0 0 1000 1000] "
    "/Ascent 900 /Descent -200 >>"
)


def one_page(
    content: Body = ("", HELLO),
    *,
    page: str = "",
    pages: str = "<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
    catalog: str = "",
    more: Mapping[int, Body] | None = None,
) -> bytes:
    """One page; object 6 is its XObject X and its font F2.

    Args:
        content: Object 5, what the page draws.
        page: Further entries of the page, object 4.
        pages: Object 2, the page tree.
        catalog: Further entries of the catalogue.
        more: Further objects, or others in place of these.
    """
    objects: dict[int, Body] = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        2: pages,
        3: _FONT,
        4: "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R "
        f"{_RESOURCES} {page} >>",
        5: content,
    }
    return write_pdf(dict(sorted((objects | dict(more or {})).items())))


def packed(block: bytes, num_bytes: int, times: int = 1) -> bytes:
    """Zlib data that unpacks to so many bytes of a repeated block, packed several times over.

    One packed megabyte is repeated, which takes no time; the checksum at the end is wrong then.
    """
    packer = zlib.compressobj(9)
    piece = block * (2**20 // len(block) + 1)
    first, again = (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    data = first + again * (num_bytes // len(piece)) + packer.flush()
    for _ in range(times - 1):
        data = zlib.compress(data, 9)
    return data


def bomb(block: bytes, num_bytes: int, times: int = 1, entries: str = "") -> Body:
    """A stream that unpacks to so many bytes."""
    filters = "/FlateDecode " * times
    return f"{entries} /Filter [{filters}]", packed(block, num_bytes, times)


def forms_in_forms(first: int, links: Sequence[int], content: bytes) -> dict[int, Body]:
    """Forms from number `first` on, each of which draws the one that its link names."""
    return {
        first + index: (
            "/Type /XObject /Subtype /Form /BBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> /XObject << /X {link} 0 R >> >>",
            content,
        )
        for index, link in enumerate(links)
    }


def font_without_map() -> dict[int, Body]:
    """A font, object 6, that names glyphs by number and does not say which letters they are."""
    return {
        6: "<< /Type /Font /Subtype /Type0 /BaseFont /AAAAAB+Subset /Encoding /Identity-H "
        "/DescendantFonts [7 0 R] >>",
        7: "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /AAAAAB+Subset /CIDSystemInfo "
        "<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor 8 0 R "
        "/DW 500 >>",
        8: DESCRIPTOR,
    }


def glyph_numbers(text: str) -> bytes:
    """A text as such fonts usually number its letters."""
    return "".join(f"{ord(letter) - 29:04x}" for letter in text).encode()


def packed_objects(
    *, places: int = 0, blanks: int = 0, holder: int = 6, entries: str = "", prev: bool = False
) -> bytes:
    """One page as newer PDFs store it: the page tree packed into a stream, the places, too.

    Args:
        places: So many bytes of places that nobody needs follow in the table.
        blanks: So many blanks follow the packed page tree.
        holder: Which object is said to hold the page tree; object 6 does.
        entries: Further entries of the table.
        prev: Whether the table says that it follows itself.
    """
    tree = zlib.compressobj(9)
    held = tree.compress(b"2 0 << /Type /Pages /Kids [4 0 R] /Count 1 >>")
    more: dict[int, Body] = {
        6: (
            "/Type /ObjStm /N 1 /First 4 /Extends 6 0 R /Filter /FlateDecode",
            held + _again(tree, b" ", blanks),
        )
    }
    # the tree is nowhere but in the stream
    file = one_page(pages="null", more=more).split(b"xref\n")[0]
    found = {number: file.find(b"%d 0 obj" % number) for number in range(1, 7)}
    found[7] = len(file)
    rows = [_place(1, found[number], 0) for number in (3, 4, 5, 6, 7)]
    packer = zlib.compressobj(9)
    head = _place(0, 0, 65535) + _place(1, found[1], 0) + _place(2, holder, 0)
    data = packer.compress(head + b"".join(rows))
    data += _again(packer, b"\0", places)
    back = f"/Prev {len(file)}" if prev else ""
    about = f"/Type /XRef /Root 1 0 R /Size 8 /W [1 4 2] {back} {entries}"
    file += f"7 0 obj\n<< {about} /Filter /FlateDecode /Length {len(data)} >>\n".encode()
    file += b"stream\n" + data + b"\nendstream\nendobj\n"
    return file + b"startxref\n%d\n%%%%EOF" % found[7]


def _place(kind: int, where: int, index: int) -> bytes:
    return bytes([kind]) + where.to_bytes(4, "big") + index.to_bytes(2, "big")


def _again(packer: zlib._Compress, block: bytes, num_bytes: int) -> bytes:
    """End packed data with so many bytes more, as `packed` does."""
    ended = packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(block * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return ended + piece * (num_bytes // 2**20) + packer.flush()
