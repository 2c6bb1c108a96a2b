"""Questions about a manual that nobody had to write: its own sentences, up to a word used once.

Knows text only. Who has read the sentence can go on with the word; who has not can only guess, and
guessing is measured and left out elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter

LEAST_LEAD_WORDS, MOST_LEAD_WORDS = 8, 30
LEAST_LETTERS = 5
_SENTENCE_END = re.compile(r"(?<=[.?!:])\s+(?=[A-Z])|\n\n+")
_WORD = re.compile(r"[A-Za-z]+")
_PLAIN_SHARE = 0.75


def completions(text: str) -> list[tuple[str, str]]:
    """Beginnings of sentences as they stand in a text, each with the word that follows.

    The word has five letters or more and stands nowhere else in the text; the beginning has 8 to 30
    words and occurs once. At most one for each sentence, the first that will do.

    Args:
        text: As it was read from a file, with its line ends.
    """
    counts = Counter(word.lower() for word in _WORD.findall(text))
    # pieces of a longer text begin and end within a sentence
    sentences = _SENTENCE_END.split(text)[1:-1]
    found = (_completion(sentence, counts) for sentence in sentences)
    return [(lead, word) for lead, word in filter(None, found) if text.count(lead) == 1]


def _completion(sentence: str, counts: Counter[str]) -> tuple[str, str] | None:
    words = list(re.finditer(r"\S+", sentence))
    if not sentence[:1].isupper() or not _is_prose([word[0] for word in words]):
        return None
    for place in words[LEAST_LEAD_WORDS : MOST_LEAD_WORDS + 1]:
        word = place[0].rstrip(",.;:?!")
        is_plain = len(word) >= LEAST_LETTERS and _WORD.fullmatch(word)
        # across a line end, how to go on would be a matter of layout
        follows = sentence[place.start() - 1] == " " and not sentence[place.start() - 2].isspace()
        if is_plain and follows and counts[word.lower()] == 1:
            return sentence[: place.start() - 1], word
    return None


def _is_prose(words: list[str]) -> bool:
    """Most words are plain ones: no listing, no table of contents."""
    plain = sum(bool(re.fullmatch(r"[A-Za-z][a-z'-]*[,.;:?!]?", word)) for word in words)
    return plain >= _PLAIN_SHARE * len(words)
