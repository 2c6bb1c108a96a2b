"""Guesses the encoding of texts in Cyrillic, Greek, Hebrew, Arabic or Thai letters.

Knows how often letters are. Must not know files. Two encodings may give letters for all bytes,
but only in the right one the frequent letters are the frequent ones.
"""

from __future__ import annotations

import math
import re
from collections import Counter

# the likelier one first: it is taken where two explain a text equally well
CODECS = [
    "cp1251",
    "koi8-r",
    "cp1253",
    "cp1255",
    "cp1256",
    "cp874",
    "cp866",
    "koi8-u",
    "iso8859-5",
    "iso8859-7",
    "iso8859-8",
    "iso8859-6",
    "mac-cyrillic",
    "mac-greek",
    "cp855",
    "cp737",
]
# the most frequent letter first
_BY_FREQUENCY = (
    "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфёъ",  # Russian
    "оаниівертслкдупмязьбгйчхцжюїєшфщґ",  # Ukrainian
    "аиоентрсвлкдпмзъбгуячцйщжшхюфь",  # Bulgarian
    "аиоенртсјкувдлмпзгбшчцњћхжљђфџ",  # Serbian
    "αοιετσνηυρπκμλςόίωάγθέδήύφχβώξζψϊϋΐΰ",  # Greek
    "יוהלאתמרבנשםדעקחכפגןטסצזךףץ",  # Hebrew
    "المينرتوبعسدفهكحقةأجشصطخىضإذزثغءئظآؤپچژگ",  # Arabic, Persian
    "านรอกเ่งมย้ลวดทสัตะปิบีคหแจพุชข็ใไืูึโซำถผ์ธณฟศภฉญฐษฎฑฌฏฬฮฆฯๆ",  # Thai
)
_DECAY = 0.92
# of a text in its own encoding it is about -3.2, in another one below -6
_MIN_SCORE = -4.5
# taken off for each place in the list of encodings
_RARITY = 0.02
_LOG_SIGN = math.log(0.005)
_LOG_STRANGE = math.log(0.0002)
_LOG_CAPITAL = math.log(0.4)
# a capital after a small letter, or a sign between letters
_LOG_ODD_IN_WORD = math.log(0.01)
_SIGNS = frozenset("‚„‘’“”‹›«»–—…•·°§€£©®™±№\xa0\xad׀־ְִֵֶַָֹּׁׂ،؛؟ـًٌٍَُِّْ·΄΅๐๑๒๓๔๕๖๗๘๙฿")
_INNER_LETTER = re.compile(r"(?=([^\W\d_][^\x00-\x7f]))")
_SIGN_IN_WORD = re.compile(r"(?<=[^\W\d_])[€№§©®™±•…„“”«»‹›†‡°µ\xa0](?=[^\W\d_])")


def _frequencies(letters: str) -> dict[str, float]:
    total = (1 - _DECAY ** len(letters)) / (1 - _DECAY)
    return {letter: math.log(_DECAY**rank / total) for rank, letter in enumerate(letters)}


_LOG_FREQUENCIES = tuple(map(_frequencies, _BY_FREQUENCY))


def guess_alphabet(data: bytes) -> tuple[str, bool]:
    """Find the encoding in which the text has the letters of a language, as often as that has.

    Args:
        data: Lines that hold bytes above 127.

    Returns:
        Python's name, and whether the text looks like one in that alphabet at all.
    """
    scores = {
        codec: _score(data.decode(codec, "replace")) - rank * _RARITY
        for rank, codec in enumerate(CODECS)
    }
    best = max(CODECS, key=lambda codec: scores[codec])
    return best, scores[best] >= _MIN_SCORE


def _score(text: str) -> float:
    counts = Counter(re.findall(r"[^\x00-\x7f]", text))
    pairs = _INNER_LETTER.findall(text)
    num_odd = sum(pair[0].islower() and pair[1].isupper() for pair in pairs)
    num_odd += len(_SIGN_IN_WORD.findall(text))
    capitals = sum(number for letter, number in counts.items() if _is_capital(letter))
    likelihood = max(_likelihood(counts, table) for table in _LOG_FREQUENCIES)
    likelihood += capitals * _LOG_CAPITAL + num_odd * _LOG_ODD_IN_WORD
    return likelihood / max(1, counts.total())


def _likelihood(counts: Counter[str], table: dict[str, float]) -> float:
    total = 0.0
    for character, number in counts.items():
        letter = character.lower()
        strange = _LOG_SIGN if character in _SIGNS else _LOG_STRANGE
        total += number * table.get(letter, strange)
    return total


def _is_capital(letter: str) -> bool:
    return ord(letter) > 127 and letter.isupper()
