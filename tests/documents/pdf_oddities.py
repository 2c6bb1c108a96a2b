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
