"""What hostile PDFs are made of: each kind is a function of chance alone.

Knows how PDFs are written and damaged. Must not know who reads them.
"""

from __future__ import annotations

import functools
import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from pdf_files import Body, make_locked_pdf, make_pdf, placed_page, text_page, write_pdf
from pdf_forms import Note, check_box, make_form, text_field
from pdf_oddities import bomb, font_without_map, forms_in_forms, glyph_numbers, one_page

SAMPLES = Path(__file__).resolve().parent.parent / "documents" / "pdfs"
HONEST = text_page(["An honest page", "of two lines"])
HONEST_TEXT = "An honest page\nof two lines"
NUMBERS = ("0", "-1", "1", "65536", "2147483647", "-2147483648", "4294967296", "99999999999999")
NUMBERS += ("1e308", "-0.0", "1.5", "--7", "+", ".", "9" * 400)
NAMES = ("Type", "Kids", "Parent", "Count", "Contents", "Resources", "Font", "XObject", "Annots")
NAMES += ("AP", "N", "V", "FT", "Opt", "I", "Ff", "Rect", "MediaBox", "Rotate", "Length", "Filter")
NAMES += ("DecodeParms", "Subtype", "BBox", "Matrix", "Encoding", "Differences", "ToUnicode")
NAMES += ("DescendantFonts", "W", "Widths", "FirstChar", "LastChar", "AcroForm", "Fields", "DA")
NAMES += ("Root", "Size", "Prev", "XRefStm", "Encrypt", "ID", "Page", "Pages", "Catalog", "Group")
FILTERS = ("FlateDecode", "LZWDecode", "ASCII85Decode", "ASCIIHexDecode", "RunLengthDecode")
FILTERS += ("DCTDecode", "JPXDecode", "JBIG2Decode", "CCITTFaxDecode", "Crypt", "Nonsense")
OPERATORS = (
    "BT",
    "ET",
    "Tj",
    "TJ",
    "Td",
    "Tm",
    "Tf",
    "q",
    "Q",
    "cm",
    "Do",
    "m",
    "l",
    "S",
    "f",
    "re",
)
OPERATORS += (
    "W",
    "n",
    "gs",
    "sh",
    "BI",
    "ID",
    "EI",
    "BDC",
    "EMC",
    "Tz",
    "TL",
    "T*",
    "'",
    '"',
    "d1",
)

Make = Callable[[random.Random], bytes]


@functools.cache
def _samples() -> tuple[bytes, ...]:
    """Sound files of many kinds, to be damaged."""
    names = sorted(path for path in SAMPLES.glob("*.pdf") if "bomb" not in path.name)
    labels = placed_page([(72, 720, "Name"), (72, 690, "Paid")])
    fields = [text_field((130, 716, 330, 732), "Anna", "Anna")]
    fields.append(check_box((130, 686, 142, 698), True))
    nameless = b"BT /F2 10 Tf 72 700 Td <" + glyph_numbers("a ferry leaves at noon") + b"> Tj ET"
    return (
        *(path.read_bytes() for path in names),
        make_pdf([HONEST] * 3),
        make_pdf([HONEST, None, b""]),
        make_locked_pdf([HONEST], "sesame"),
        make_locked_pdf([HONEST], ""),
        make_form(labels, fields),
        one_page(("", nameless), more=font_without_map()),
    )


def _flipped(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(_samples()))
    for _ in range(rng.choice([1, 3, 30, 300])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _cut(rng: random.Random) -> bytes:
    data = rng.choice(_samples())
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    middle = data[first:last]
    return rng.choice(
        [
            data[:last],
            data[:first] + data[last:],
            data[:first] + middle * rng.choice([2, 50]) + data[last:],
            data[:first] + bytes(len(middle)) + data[last:],
            data[:first] + rng.randbytes(len(middle)) + data[last:],
            data[:first] + rng.choice(_samples()) + data[last:],
            rng.randbytes(rng.randrange(1000)) + data,
            data + rng.choice(_samples()),
        ]
    )


def _renumbered(rng: random.Random) -> bytes:
    data, share = rng.choice(_samples()), rng.choice([0.02, 0.1, 0.5])

    def other(match: re.Match[bytes]) -> bytes:
        if rng.random() > share:
            return match[0]
        return rng.choice([rng.choice(NUMBERS), str(rng.randrange(30))]).encode()

    return re.sub(rb"-?\d+(?:\.\d+)?", other, data)


def _renamed(rng: random.Random) -> bytes:
    data, share = rng.choice(_samples()), rng.choice([0.02, 0.1, 0.5])
    taken = sorted(set(re.findall(rb"/(\w+)", data)))

    def other(match: re.Match[bytes]) -> bytes:
        if rng.random() > share:
            return match[0]
        return b"/" + rng.choice([rng.choice(NAMES).encode(), rng.choice(taken), b"", b"#00#ff"])

    return re.sub(rb"/\w+", other, data)


def _relinked(rng: random.Random) -> bytes:
    """References that lead elsewhere: circles, other types, nothing."""
    data, share = rng.choice(_samples()), rng.choice([0.1, 0.5, 1.0])
    highest = max(map(int, re.findall(rb"(\d{1,4}) 0 obj", data)), default=9)

    def other(match: re.Match[bytes]) -> bytes:
        return b"%d 0 R" % rng.randrange(highest + 2) if rng.random() < share else match[0]

    return re.sub(rb"\d+ 0 R", other, data)


def _value(rng: random.Random, depth: int = 0) -> str:
    """Any object: a number, name, text, reference, list or dictionary."""
    kind = rng.randrange(9 if depth < 4 else 7)
    if kind == 8:
        pairs = (f"/{rng.choice(NAMES)} {_value(rng, depth + 1)}" for _ in range(rng.randrange(6)))
        return f"<< {' '.join(pairs)} >>"
    if kind == 7:
        return f"[{' '.join(_value(rng, depth + 1) for _ in range(rng.randrange(6)))}]"
    return (
        rng.choice(NUMBERS),
        str(rng.randrange(800)),
        f"/{rng.choice(NAMES)}",
        f"({rng.choice(['', 'x', 'D:2024', chr(233) * 40, '((', 'y' * 3000])})",
        f"<{rng.randbytes(rng.randrange(9)).hex()}>",
        f"{rng.randrange(25)} 0 R",
        rng.choice(["true", "false", "null", "R", "obj", ">>", "]"]),
    )[kind]


def _graph(rng: random.Random) -> bytes:
    """A page whose parts, and many objects beside them, are anything at all."""
    more: dict[int, Body] = {}
    for number in range(6, 25):
        entries = " ".join(f"/{rng.choice(NAMES)} {_value(rng)}" for _ in range(rng.randrange(8)))
        is_stream = rng.random() < 0.3
        more[number] = (entries, _operators(rng)) if is_stream else f"<< {entries} >>"
    for number in (2, 3, 4):
        if rng.random() < 0.2:
            more[number] = _value(rng)
    entry = f"/{rng.choice(NAMES)} {_value(rng)}"
    return one_page(page=entry, catalog=entry if rng.random() < 0.3 else "", more=more)


def _operators(rng: random.Random) -> bytes:
    """A stream that draws with senseless operands."""
    parts = [b"/F1 9 Tf"]
    for _ in range(rng.choice([5, 50, 2000])):
        operands = (_value(rng, 3) for _ in range(rng.randrange(7)))
        parts.append(f"{' '.join(operands)} {rng.choice(OPERATORS)}".encode("latin-1", "replace"))
    return b" ".join(parts)


def _drawing(rng: random.Random) -> bytes:
    return one_page(("", _operators(rng)), more=forms_in_forms(6, [7, 8, 6], _operators(rng)))


def _filters(rng: random.Random) -> bytes:
    data = rng.choice([HONEST, rng.randbytes(500), zlib.compress(HONEST), HONEST.hex().encode()])
    names = " ".join(f"/{rng.choice(FILTERS)}" for _ in range(rng.choice([1, 2, 3, 40])))
    parameters = " ".join(
        f"/{name} {rng.choice(NUMBERS)}"
        for name in ("Predictor", "Columns", "Colors", "BitsPerComponent", "K", "EarlyChange")
        if rng.random() < 0.6
    )
    entries = f"/Filter [{names}] /DecodeParms << {parameters} >>"
    picture = (
        f"/Type /XObject /Subtype /Image /Width {rng.choice(NUMBERS)} /Height 9 "
        f"/ColorSpace {rng.choice(['/DeviceRGB', '[/Indexed /DeviceRGB 999 (x)]', '/Pattern'])} "
        f"/BitsPerComponent {rng.choice(NUMBERS)} {entries}"
    )
    content: Body = (entries, data) if rng.random() < 0.5 else ("", HONEST + b" /X Do")
    return one_page(content, more={6: (picture, data)})


def _bomb(rng: random.Random) -> bytes:
    blocks = (
        b"\n",
        b"q ",
        b"BT /F1 9 Tf (a) Tj ET ",
        b"0 0 m 9 9 l ",
        b"[",
        b"<<",
        b"/X Do ",
        b"(",
    )
    stream = bomb(
        rng.choice(blocks),
        int(10 ** rng.uniform(6, 9.5)),
        rng.choice([1, 2, 4]),
        rng.choice(["", "/Subtype /Form /BBox [0 0 99 99]", "/Type /ObjStm /N 99999 /First 9"]),
    )
    place = rng.choice([5, 6, 9])
    fonts = font_without_map()
    fonts[8] = str(fonts[8]).replace("/Flags", f"/FontFile2 {place} 0 R /Flags")
    note = f"<< /Subtype /Stamp /Rect [0 0 99 99] /AP << /N {place} 0 R >> >>"
    pages = f"<< /Type /Pages /Kids [{'4 0 R ' * 50}] /Count 50 >>"
    return one_page(
        page="/Annots [10 0 R]",
        **({"pages": pages} if rng.random() < 0.3 else {}),
        more={**fonts, 10: note, place: stream},
    )


def _circle(rng: random.Random) -> bytes:
    length = rng.randrange(1, 6)
    links = [6 + (index + 1) % length for index in range(length)]
    forms = forms_in_forms(6, links, HONEST + b" /X Do" * rng.randrange(1, 9))
    note = "<< /Subtype /Stamp /Rect [0 0 99 99] /AP << /N 6 0 R >> >>"
    is_page = rng.random() < 0.5
    return one_page(
        ("", HONEST + (b" /X Do" if is_page else b"")),
        page="" if is_page else "/Annots [20 0 R 20 0 R]",
        more={**forms, 20: note},
    )


def _tree(rng: random.Random) -> bytes:
    """Page trees of any shape, with circles and wrong counts."""
    more: dict[int, Body] = {}
    for number in range(20, 20 + rng.randrange(1, 30)):
        kids = " ".join(f"{rng.choice([4, 2, rng.randrange(20, 50)])} 0 R" for _ in range(4))
        parent = rng.choice([2, number, rng.randrange(20, 50)])
        count = rng.choice([*NUMBERS, "4", "16"])
        more[number] = f"<< /Type /Pages /Parent {parent} 0 R /Kids [{kids}] /Count {count} >>"
    times = rng.choice([1, 3, 500, 20_000])
    kids = " ".join(f"{rng.choice([4, 20, 21])} 0 R" for _ in range(times))
    count = rng.choice([*NUMBERS, str(times), str(times * 4)])
    return one_page(pages=f"<< /Type /Pages /Kids [{kids}] /Count {count} >>", more=more)


def _form(rng: random.Random) -> bytes:
    """Fields whose kinds, flags, values, options and places are anything."""
    notes = []
    for number in range(rng.choice([1, 5, 60])):
        edges = tuple(rng.choice([rng.uniform(0, 800), rng.uniform(-1e6, 1e6)]) for _ in range(4))
        kind = rng.choice(["/Widget", "/Widget", "/FreeText", "/Stamp", "/Ink", _value(rng)])
        entries = f"/Subtype {kind} /FT /{rng.choice(['Tx', 'Btn', 'Ch', 'Sig', 'No'])} "
        for name in ("T", "V", "DV", "Ff", "F", "Opt", "I", "TI", "AS", "MK", "MaxLen", "Kids"):
            if rng.random() < 0.4:
                entries += f"/{name} {_value(rng)} "
        entries += rng.choice(["/Parent 10 0 R", f"/Parent {10 + number} 0 R", "", ""])
        drawn = rng.choice([None, "drawn", "drawn\nin lines", ""])
        notes.append(Note(edges, f"{entries} /DA (/F1 {rng.choice(NUMBERS)} Tf)", drawn))
    form = rng.choice(["", "/NeedAppearances true", "/XFA 5 0 R /CO [10 0 R]", "/Fields 1 0 R"])
    page = rng.choice(["", "/Rotate 90", f"/Rotate {rng.choice(NUMBERS)}", "/CropBox [9 9 1 1]"])
    return make_form(HONEST, notes, form=form, page=page)


def _many(rng: random.Random) -> bytes:
    """Much of something: notes, pages, fields, options, letters, nested brackets."""
    number = int(10 ** rng.uniform(2, 5.3))
    rects = [(rng.uniform(0, 600), rng.uniform(0, 780)) for _ in range(number % 3000)]
    return rng.choice(
        [
            lambda: one_page(page=f"/Annots [{'9 0 R ' * number}]", more={9: _note(rng)}),
            lambda: make_form(HONEST, [text_field((x, y, x + 40, y + 9), "v") for x, y in rects]),
            lambda: one_page(page=f"/Odd {'[' * number}{']' * number}"),
            lambda: one_page(("", b"[" * number + b"(x)" + b"]" * number + b" TJ")),
            lambda: one_page(("", b"BT /F1 1 Tf (" + b"letters " * number + b") Tj ET")),
            lambda: make_pdf([placed_page([(x, y, "word-") for x, y in rects])] * 3),
            lambda: make_pdf([HONEST] * (number % 2000)),
        ]
    )()


def _note(rng: random.Random) -> str:
    rect = " ".join(rng.choice(["0", "300", rng.choice(NUMBERS)]) for _ in range(4))
    return f"<< /Subtype /FreeText /Contents {_value(rng)} /Rect [{rect}] /DA (/F1 9 Tf) >>"


def _font(rng: random.Random) -> bytes:
    """Fonts that map letters to anything, in senseless ranges."""
    ranges = " ".join(
        f"<{rng.randrange(65536):04x}> <{rng.randrange(65536):04x}> <{rng.randbytes(3).hex()}>"
        for _ in range(rng.randrange(30))
    )
    letters = " ".join(
        f"<{code:04x}> <{rng.choice(['D800', 'FFFE', '0000', '202E', 'D83DDE00', '0041' * 300])}>"
        for code in range(rng.randrange(90))
    )
    number = rng.choice([*NUMBERS, "30"])
    cmap = f"begincmap {number} beginbfrange {ranges} endbfrange beginbfchar {letters} endbfchar"
    fonts = font_without_map()
    fonts[6] = str(fonts[6]).replace("/DescendantFonts", "/ToUnicode 9 0 R /DescendantFonts")
    fonts[7] = str(fonts[7]).replace("/DW 500", f"/DW {number} /W {_value(rng)}")
    text = rng.choice([glyph_numbers("a ferry leaves at noon"), rng.randbytes(400).hex().encode()])
    content = b"BT /F2 10 Tf 72 700 Td <" + text + b"> Tj ET\n" + HONEST
    return one_page(("", content), more={**fonts, 9: ("", cmap.encode())})


def _trailer(rng: random.Random) -> bytes:
    """Trailers and tables of places that lie."""
    objects: dict[int, Body] = {
        1: "<< /Type /Catalog /Pages 2 0 R >>",
        2: "<< /Type /Pages /Kids [] /Count 0 >>",
        3: (
            f"/Type /XRef /W [{' '.join(rng.choice(NUMBERS) for _ in range(3))}] "
            f"/Size {rng.choice(NUMBERS)} /Index [{rng.choice(NUMBERS)} {rng.choice(NUMBERS)}]",
            rng.randbytes(200),
        ),
        4: (f"/Type /ObjStm /N {rng.choice(NUMBERS)} /First {rng.choice(NUMBERS)}", b"5 0 << >>"),
    }
    entries = " ".join(f"/{rng.choice(NAMES[-10:])} {_value(rng)}" for _ in range(4))
    data = rng.choice([write_pdf(objects, entries), make_pdf([HONEST])])
    return re.sub(
        rb"\d{10}|startxref\n\d+",
        lambda match: match[0] if rng.random() < 0.5 else b"startxref\n%d" % rng.randrange(2000),
        data,
    )


def _locked(rng: random.Random) -> bytes:
    data = make_locked_pdf([HONEST], rng.choice(["", "sesame"]))
    for name in ("V", "R", "P", "O", "U", "Length", "Filter", "CF"):
        if rng.random() < 0.3:
            value = f"/{name} {_value(rng)} ".encode("latin-1", "replace")
            data = re.sub(rb"/%s (\S+)" % name.encode(), lambda _: value, data)  # noqa: B023
    return data


KINDS: tuple[Make, ...] = (
    _flipped,
    _cut,
    _renumbered,
    _renamed,
    _relinked,
    _graph,
    _drawing,
    _filters,
    _bomb,
    _circle,
    _tree,
    _form,
    _many,
    _font,
    _trailer,
    _locked,
)
