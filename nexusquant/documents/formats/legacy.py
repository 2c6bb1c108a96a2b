"""Old encodings: their names, which ones extend which, and how files name their own.

Knows names and escape sequences. Must not know files, and guesses nothing.
"""

from __future__ import annotations

import codecs
import re

# an encoding, then those that hold all of it and more, or nearly so: the first that fits is taken
_FAMILIES = {
    "gb18030": ("gbk", "gb18030"),
    "gb2312": ("gbk", "gb18030"),
    "gbk": ("gbk", "gb18030"),
    "big5": ("big5", "cp950", "big5hkscs"),
    "big5hkscs": ("big5", "cp950", "big5hkscs"),
    "cp950": ("big5", "cp950", "big5hkscs"),
    "cp949": ("euc_kr", "cp949"),
    "euc_kr": ("euc_kr", "cp949"),
    "shift_jis": ("cp932", "shift_jis", "shift_jis_2004"),
    "cp932": ("cp932", "shift_jis", "shift_jis_2004"),
    "shift_jis_2004": ("cp932", "shift_jis_2004"),
    "euc_jp": ("euc_jp", "euc_jis_2004"),
    "euc_jis_2004": ("euc_jp", "euc_jis_2004"),
    # browsers read these names so too: the second has letters where the first has none
    "iso8859-1": ("cp1252",),
    "ascii": ("cp1252",),
    "iso8859-9": ("cp1254",),
    "tis-620": ("cp874",),
    "iso8859-11": ("cp874",),
}
_NAMES = {
    "gbk": "GBK",
    "gb18030": "GB18030",
    "big5": "Big5",
    "cp950": "Big5",
    "big5hkscs": "Big5-HKSCS",
    "euc_kr": "EUC-KR",
    "cp949": "CP949 (Korean)",
    "johab": "Johab (Korean)",
    "cp932": "Shift JIS",
    "shift_jis": "Shift JIS",
    "shift_jis_2004": "Shift JIS",
    "euc_jp": "EUC-JP",
    "euc_jis_2004": "EUC-JP",
    "koi8-r": "KOI8-R",
    "koi8-u": "KOI8-U",
    "mac-roman": "Mac Roman",
    "mac-cyrillic": "Mac Cyrillic",
    "mac-greek": "Mac Greek",
    "mac-latin2": "Mac Central European",
    "mac-turkish": "Mac Turkish",
    "cp874": "Windows-874 (Thai)",
    "iso8859-11": "ISO-8859-11 (Thai)",
    "cp1250": "Windows-1250 (Central European)",
    "cp1251": "Windows-1251 (Cyrillic)",
    "cp1252": "Windows-1252 (Western European)",
    "cp1253": "Windows-1253 (Greek)",
    "cp1254": "Windows-1254 (Turkish)",
    "cp1255": "Windows-1255 (Hebrew)",
    "cp1256": "Windows-1256 (Arabic)",
    "cp1257": "Windows-1257 (Baltic)",
    "cp1258": "Windows-1258 (Vietnamese)",
    "cp437": "DOS code page 437",
    "cp737": "DOS code page 737 (Greek)",
    "cp850": "DOS code page 850",
    "cp852": "DOS code page 852 (Central European)",
    "cp866": "DOS code page 866 (Cyrillic)",
    "cp775": "DOS code page 775 (Baltic)",
    "cp855": "DOS code page 855 (Cyrillic)",
    "cp857": "DOS code page 857 (Turkish)",
    "cp865": "DOS code page 865 (Nordic)",
    "mac-iceland": "Mac Icelandic",
    **{f"iso8859-{part}": f"ISO-8859-{part}" for part in (*range(1, 11), *range(13, 17))},
}
# names that mails and pages use and Python does not know
_ALIASES = {
    "x-sjis": "cp932",
    "ms_kanji": "cp932",
    "windows-31j": "cp932",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gbk",
    "gb_2312-80": "gbk",
    "ks_c_5601-1989": "cp949",
    "windows-949": "cp949",
    "windows-936": "gbk",
    "x-mac-roman": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "dos-874": "cp874",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "x-cp1250": "cp1250",
    "x-cp1251": "cp1251",
    "x-cp1252": "cp1252",
}
_SHIFTING = {
    "iso2022_jp_2004": ("ISO-2022-JP", re.compile(rb"\x1b\$(?:[@B]|\([DOPQ])|\x1b\([IJ]")),
    # its half-width letters are in none of the others
    "iso2022_jp_ext": ("ISO-2022-JP", re.compile(rb"\x1b\([IJ]|\x1b\$\(D")),
    "iso2022_kr": ("ISO-2022-KR", re.compile(rb"\x1b\$\)C")),
    "hz": ("HZ (Chinese)", re.compile(rb"~\{(?:[\x21-\x77][\x21-\x7e]){2,}~\}")),
}
SHIFT_MARKS = (b"\x1b", b"~{")
_DECLARED = re.compile(
    rb"""(?:charset|encoding|coding)\s{0,9}[=:]\s{0,9}["']?\s{0,9}([A-Za-z0-9][\w.:+-]{1,40})"""
)
_DECLARED_BYTES = 4096


def known_codec(name: str) -> str | None:
    """Return Python's name of a text encoding that a file or mail names; None if it is none."""
    name = name.strip().lower()
    try:
        codec = codecs.lookup(_ALIASES.get(name, name)).name
    except (LookupError, ValueError):
        return None
    # Python's list holds more than texts: archives, for one
    is_text = codec in {*_NAMES, *_FAMILIES, *_SHIFTING} or codec.startswith(("utf", "iso2022"))
    return codec if is_text else None


def family(codec: str) -> tuple[str, ...]:
    """Return the encodings to try for one: that itself and those that extend it."""
    return _FAMILIES.get(codec, (codec,))


def display_name(codec: str) -> str:
    """Return what an encoding is called on screen."""
    if codec in _SHIFTING:
        return _SHIFTING[codec][0]
    return _NAMES.get(codec, codec.upper().replace("_", "-"))


def declared_codec(head: bytes) -> str | None:
    """Find the encoding that the beginning of a file names: HTML, XML, Python, editors."""
    for found in _DECLARED.finditer(head[:_DECLARED_BYTES]):
        codec = known_codec(found[1].decode("ascii"))
        # 16 and 32 bits cannot be named in one byte a character
        if codec and not codec.startswith(("utf-16", "utf-32")):
            return codec
    return None


def shifting_codec(data: bytes) -> str | None:
    """Recognise encodings of seven bits that change alphabets by escape sequences."""
    for codec, (_, mark) in _SHIFTING.items():
        if mark.search(data):
            try:
                codecs.getincrementaldecoder(codec)().decode(data)
            except UnicodeError:
                continue
            return codec
    return None
