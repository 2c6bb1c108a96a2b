"""Guesses the encoding of bytes that are not UTF-8.

Knows old encodings, their names, and how Western text looks in them. Must not know files.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import chardet
from chardet.enums import EncodingEra

_LATIN = (
    "cp1250 cp1252 cp1254 cp1257 cp1258 iso8859-2 iso8859-9 iso8859-13 iso8859-15 "
    "mac-roman cp437 cp850 cp852"
).split()
_OTHER_LETTERS = (
    "cp1251 cp1253 cp1255 cp1256 cp874 koi8-r koi8-u iso8859-5 iso8859-6 iso8859-7 iso8859-8 "
    "mac-cyrillic mac-greek cp737 cp866"
).split()
_EAST_ASIAN = "big5hkscs gb18030 cp932 cp949 euc_kr euc_jis_2004 johab".split()

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
    # browsers read these names so too; the first has no letters where the second has
    "iso8859-1": ("cp1252", "iso8859-1"),
    "cp1252": ("cp1252", "iso8859-1"),
    "ascii": ("cp1252", "iso8859-1"),
    "iso8859-9": ("cp1254", "iso8859-9"),
    "cp874": ("cp874", "iso8859-11"),
    "tis-620": ("cp874", "iso8859-11"),
    "iso8859-11": ("cp874", "iso8859-11"),
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
    "hz": "HZ (Chinese)",
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
    "iso2022_kr": ("ISO-2022-KR", re.compile(rb"\x1b\$\)C")),
}
_DECLARED = re.compile(
    rb"""(?:charset|encoding|coding)\s{0,9}[=:]\s{0,9}["']?\s{0,9}([A-Za-z0-9][\w.:+-]{1,40})"""
)
_DECLARED_BYTES = 4096

_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_FEW_BYTES = 8
_LOW_CONFIDENCE = 0.1
# below this, other Latin encodings than Western are chance
_MIN_CONFIDENCE = 0.1
# another Latin encoding must be that much likelier than the Western one
_MIN_LEAD = 1.4
_SAMPLE_BYTES = 100_000
# a capital or a sign inside a word of small letters: no Western text looks like that
_ODD_IN_WORD = re.compile(
    r"[A-Za-zß-öø-ÿœšž][À-ÖØ-ÞŒŠŽŸ][a-zß-öø-ÿœšž]"
    r"|[a-zß-öø-ÿœšž][†‡ˆ˜¡-©«-¶¹»-¿×÷‚„…‰‹›“”•–—™][a-zß-öø-ÿœšž]"
)


@dataclass(frozen=True)
class Guess:
    """An encoding that bytes are most likely in.

    Args:
        codecs: Python's names: the first that decodes the whole text without a fault is right.
        is_certain: False if the text gives few clues.
    """

    codecs: tuple[str, ...]
    is_certain: bool


def known_codec(name: str) -> str | None:
    """Return Python's name of a text encoding that a file or mail names; None if it is none."""
    name = name.strip().lower()
    try:
        codec = codecs.lookup(_ALIASES.get(name, name)).name
    except (LookupError, ValueError):
        return None
    # Python's list holds more than texts: archives, for one
    is_text = codec in _NAMES or codec in _FAMILIES or codec.startswith(("utf", "iso2022"))
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
            except UnicodeDecodeError:
                continue
            return codec
    return None


def guess(data: bytes) -> Guess:
    """Guess the encoding of bytes that are not UTF-8.

    Args:
        data: Lines that hold bytes above 127; the first 100,000 bytes count.
    """
    data = data[:_SAMPLE_BYTES]
    runs = _HIGH_RUN.findall(data)
    is_latin = _looks_latin(data, runs)
    names = [*_LATIN, *_EAST_ASIAN] if is_latin else [*_LATIN, *_OTHER_LETTERS, *_EAST_ASIAN]
    found = chardet.detect_all(
        data,
        ignore_threshold=True,
        encoding_era=EncodingEra.ALL,
        include_encodings=names,
        no_match_encoding="cp1252",
    )
    best, confidence = _best(found, is_latin, data)
    is_certain = confidence >= _LOW_CONFIDENCE and len(b"".join(runs)) >= _FEW_BYTES
    return Guess(family(best), is_certain)


def _looks_latin(data: bytes, runs: list[bytes]) -> bool:
    """Tell whether bytes above 127 stand alone between other letters, as accents do."""
    num_high = sum(map(len, runs))
    num_alone = sum(len(run) for run in runs if len(run) <= 2)
    num_ascii = len(re.findall(rb"[A-Za-z]", data))
    return num_alone >= 0.7 * num_high and num_ascii >= num_high


def _best(found: list, is_latin: bool, data: bytes) -> tuple[str, float]:
    scores: dict[str, float] = {}
    for entry in found:
        codec = known_codec(entry["encoding"] or "")
        if codec:
            scores.setdefault(codec, entry["confidence"])
    if not scores:
        return "cp1252", 0.0
    best = max(scores, key=lambda codec: scores[codec])
    if is_latin and best not in _EAST_ASIAN and _is_plausibly_western(data):
        western = scores.get("cp1252", 0.0)
        if scores[best] < _MIN_CONFIDENCE or scores[best] < _MIN_LEAD * western:
            return _western(data), western
    return best, scores[best]


def _is_plausibly_western(data: bytes) -> bool:
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return not _ODD_IN_WORD.search(text)


def _western(data: bytes) -> str:
    """Choose between Windows and ISO: the latter has a euro where the former has ¤."""
    is_iso = b"\xa4" in data and not re.search(rb"[\x80-\x9f]", data)
    return "iso8859-15" if is_iso else "cp1252"
