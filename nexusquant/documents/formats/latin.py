"""Guesses the encoding of texts in Latin letters, by the accents that each language has.

Knows alphabets. Must not know files. Statistics over bytes fail here: a short text has few
accents, and each of them is a letter in every one of these encodings.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# the likelier one first: it is taken where two explain a text equally well
CODECS = [
    "cp1252",
    "cp1250",
    "cp1254",
    "cp1257",
    "iso8859-15",
    "iso8859-2",
    "iso8859-16",
    "iso8859-13",
    "iso8859-4",
    "iso8859-3",
    "mac-roman",
    "cp850",
    "cp437",
    "cp852",
    "cp865",
    "cp857",
    "cp775",
    "mac-latin2",
    "mac-turkish",
    "mac-iceland",
]

_ALPHABETS = (
    "äöüß",  # German
    "àâæçéèêëîïôœùûüÿ",  # French
    "áéíñóúüªº",  # Spanish
    "áâãàçéêíóôõúüªº",  # Portuguese
    "àèéìíòóùú",  # Italian
    "àçèéíïòóúü·",  # Catalan
    "åäöé",  # Swedish, Finnish
    "æøåéèòóô",  # Danish, Norwegian
    "áðéíóúýþæö",  # Icelandic
    "áéëèïíóöüúê",  # Dutch
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "ăâîşţșț",  # Romanian
    "čćđšž",  # Croatian, Slovene
    "çğıöşüâîû",  # Turkish
    "äöõüšž",  # Estonian
    "āčēģīķļņšūž",  # Latvian
    "ąčęėįšųūž",  # Lithuanian
    "ċġħżàèìòù",  # Maltese
    "ĉĝĥĵŝŭ",  # Esperanto
    "áéíóúâêîôûŵŷäëïöüẁẃẅ",  # Welsh, Irish
    "çëâê",  # Albanian
)
# texts with words or names of neighbours
_REGIONS = (
    "äöüßàâæçéèêëîïôœùûÿáíñóúãõìòåøåðþý",  # Western and Northern Europe
    "ąćęłńóśźżáčďéěíňřšťúůýžäĺľôŕöőüűăâîşţđßëç",  # Central Europe
)
_REGION_WEIGHT = 0.9


def _both_cases(letters: str) -> frozenset[str]:
    return frozenset(letters + letters.upper())


_LETTERS = (
    *((_both_cases(letters), 1.0) for letters in _ALPHABETS),
    *((_both_cases(letters), _REGION_WEIGHT) for letters in _REGIONS),
)
_SIGNS = frozenset("‚„‘’“”‹›«»–—…•·°§€£©®™±×½¼¾²³µ¿¡\xa0\xad†‰")
# a sign between letters, or a capital after a small one: no text of any language looks so
_ODD_IN_WORD = re.compile(r"(?<=[^\W\d_])[‚„“”‹›«»…•°§€£©®™±×½¼¾²³µ¿¡†‰ªº]+(?=[^\W\d_])")
_INNER_LETTER = re.compile(r"(?=([^\W\d_][^\x00-\x7f]))")
_MIN_SHARE = 0.7
_MANY_DIFFERENT = 0.1


@dataclass(frozen=True)
class LatinGuess:
    """An encoding, and how well it explains a text.

    Args:
        codec: Python's name.
        share: Of the bytes above 127, those that are letters of one language or usual signs.
        lead: How much more it explains than the best one that reads other letters.
    """

    codec: str
    share: float
    lead: float


def guess_latin(data: bytes) -> LatinGuess | None:
    """Find the encoding in which the text has the accents of one language.

    Args:
        data: Lines that hold bytes above 127.

    Returns:
        None if there is none; the text may be in other letters.
    """
    texts = {codec: data.decode(codec, "replace") for codec in CODECS}
    shares = {codec: _share(text) for codec, text in texts.items()}
    best = max(CODECS, key=lambda codec: shares[codec])
    if shares[best] < _MIN_SHARE:
        return None
    others = [shares[codec] for codec in CODECS if _differ(texts[codec], texts[best])]
    return LatinGuess(best, shares[best], shares[best] - max(others, default=0.0))


def _differ(text: str, other: str) -> bool:
    """Tell whether two readings differ in more than single signs."""
    num_different = sum(a != b for a, b in zip(text, other, strict=True))
    return num_different > _MANY_DIFFERENT * sum(ord(character) > 127 for character in text)


def _share(text: str) -> float:
    """Return the share of letters beyond ASCII that one language and its signs explain."""
    counts = Counter(re.findall(r"[^\x00-\x7f]", text))
    total = sum(counts.values())
    num_signs = sum(number for sign, number in counts.items() if sign in _SIGNS)
    num_letters = max(
        weight * sum(number for letter, number in counts.items() if letter in letters)
        for letters, weight in _LETTERS
    )
    return (num_signs + num_letters - _num_odd(text)) / total


def _num_odd(text: str) -> int:
    num_signs = sum(len(found[0]) for found in _ODD_IN_WORD.finditer(text))
    num_capitals = sum(
        pair[0].islower() and pair[1].isupper() for pair in _INNER_LETTER.findall(text)
    )
    return num_signs + num_capitals
