"""Guesses the encoding of Chinese, Japanese and Korean texts.

Knows which characters each encoding's makers called the common ones. Must not know files.
"""

from __future__ import annotations

from collections.abc import Callable

# the part of a text that is looked at
_MAX_CHARACTERS = 5_000
_STOPS = frozenset("，。、！？：；「」『』（）《》〈〉【】“”‘’…—～·　・ー々〇")
_MIN_KANA = 0.1
_MIN_SHARE = 0.75


def guess_east_asian(data: bytes) -> str | None:
    """Find the encoding in which most characters of the text are common ones.

    Args:
        data: Lines that hold bytes above 127.

    Returns:
        Python's name; None if no encoding makes them so.
    """
    best, best_share = None, _MIN_SHARE
    for codec, is_common in _IS_COMMON.items():
        text = data.decode(codec, "replace")
        wide = [c for c in text if ord(c) > 127][:_MAX_CHARACTERS]
        if codec in _JAPANESE and sum(map(_is_kana, wide)) < _MIN_KANA * len(wide):
            continue
        share = sum(map(is_common, wide)) / max(1, len(wide))
        if share > best_share:
            best, best_share = codec, share
    return best


def _is_kana(character: str) -> bool:
    return "\u3041" <= character <= "\u30fc"


def _row(character: str, codec: str) -> int:
    """Return the row of the encoding's table that a character stands in; 0 if in none."""
    try:
        code = character.encode(codec)
    except UnicodeEncodeError:
        return 0
    return code[0] if len(code) == 2 else 0


def _is_common_japanese(character: str) -> bool:
    return _is_kana(character) or character in _STOPS or 0xB0 <= _row(character, "euc_jp") < 0xD0


def _is_common_simplified(character: str) -> bool:
    return character in _STOPS or 0xB0 <= _row(character, "gb2312") < 0xD8


def _is_common_traditional(character: str) -> bool:
    return character in _STOPS or 0xA4 <= _row(character, "big5") < 0xC7


def _is_common_korean(character: str) -> bool:
    return character in _STOPS or 0xB0 <= _row(character, "euc_kr") < 0xC9


_JAPANESE = ("cp932", "euc_jis_2004")
# Hangul first: all of it would also be common Chinese characters, but not the other way round
_IS_COMMON: dict[str, Callable[[str], bool]] = {
    "cp949": _is_common_korean,
    "cp932": _is_common_japanese,
    "euc_jis_2004": _is_common_japanese,
    "gb18030": _is_common_simplified,
    "big5hkscs": _is_common_traditional,
}
