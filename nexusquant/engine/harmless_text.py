"""What people and documents say, made so that a tokenizer reads no control token in it.

Knows a tokenizer's added tokens. Must not know roles, templates or pages.

A string that a tokenizer would read as one of its added tokens (`<|im_end|>`, `[INST]`) gets a
blank inside. Whether that is enough is told by the tokenizer itself: a normalizer may fold fullwidth
bars, lower capitals or take marks out, so that the strings that act are not only those on the list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# a blank is what the model notices least; the others are for tokenizers that take blanks out
_BREAKERS = (*[" "] * 6, *["-"] * 3, *["·"] * 3)
_ROUNDS = len(_BREAKERS) + 3
_ODD = re.compile(r"[^\w\s]|_")
STRENGTHS = (0, 1, 2)
"""How much `HarmlessText.of` alters: what acts by itself; every sign; no signs are left."""


def well_formed(text: str) -> str:
    """Replace halves of surrogate pairs, which no encoding can write, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class HarmlessText:
    """Breaks up the added tokens of one tokenizer.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._marks: re.Pattern[str] | None = None
        # what is no tokenizer of transformers need not have a list
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._controls = {
            number: token.content for number, token in added.items() if _is_control(token)
        }
        self._unknown_id = getattr(tokenizer, "unk_token_id", None)
        self._has_offsets = bool(getattr(tokenizer, "is_fast", False))

    def break_marks(self, marks: Iterable[str]) -> None:
        """Break up these strings from now on, too: what a template writes instead of tokens."""
        longest_first = sorted(set(marks), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def of(self, text: str, strength: int = 0) -> str:
        """Give `text` with every added token in it broken up; the words around stay.

        Args:
            text: What was typed, or stands in a document.
            strength: One of `STRENGTHS`; above 0 for templates that alter what they are given.
        """
        text = well_formed(text)
        if strength == 1:
            text = re.sub(r"([^\w\s]|_)(?=\S)", r"\1 ", text)
        elif strength == 2:
            text = _ODD.sub(" ", text)
        for number in range(_ROUNDS if self._controls else 0):
            spans = self._spans(text)
            if not spans:
                break
            breaker = _BREAKERS[number] if number < len(_BREAKERS) else ""
            text = _broken(text, spans, breaker)
        # a blank before the last sign: "[/INST ]", "USER :"
        return self._marks.sub(lambda mark: f"{mark[0][:-1]} {mark[0][-1]}", text) if self._marks else text

    def controls(self, text: str) -> tuple[int, ...]:
        """List the added tokens that the tokenizer reads in `text`, blanks not counted."""
        if not self._controls:
            return ()
        if self._unknown_id in self._controls:
            return tuple(number for number, _, _ in self._found(text))
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(number for number in ids if number in self._controls)

    def is_control(self, token_id: int) -> bool:
        """Whether a token is an added one that is more than blanks."""
        return token_id in self._controls

    def _spans(self, text: str) -> list[tuple[int, int]]:
        spans = [_inner(text, start, end) for _, start, end in self._found(text)]
        return [(start, end) for start, end in spans if end > start]

    def _found(self, text: str) -> list[tuple[int, int, int]]:
        """Find added tokens as (id, start, end)."""
        if not self._has_offsets:
            return self._found_without_offsets(text)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [
            (number, start, end)
            for number, (start, end) in pairs
            if number in self._controls and self._is_written(number, text[start:end])
        ]

    def _found_without_offsets(self, text: str) -> list[tuple[int, int, int]]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        found = []
        for number in sorted(set(ids) & self._controls.keys()):
            matches = re.finditer(re.escape(self._controls[number]), text, re.IGNORECASE)
            found += [(number, match.start(), match.end()) for match in matches]
        return found

    def _is_written(self, number: int, text: str) -> bool:
        # the token for what a tokenizer does not know is harmless, unless somebody spells it out
        if number != self._unknown_id:
            return True
        return _folded(self._controls[number]) in _folded(text)


def _is_control(token: object) -> bool:
    content = token.content.replace("▁", " ").strip()
    is_letter = len(content) == 1 and content.isalnum() and not token.special
    return bool(content) and not is_letter


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _inner(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the blanks that a token takes in at its sides."""
    end = max(end, start + 1)
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _broken(text: str, spans: Sequence[tuple[int, int]], breaker: str) -> str:
    """Put `breaker` inside each span; a single sign, or all that no breaker helps, is replaced."""
    parts, done = [], 0
    for start, end in sorted(spans):
        if start < done:
            continue
        if breaker and end - start > 1:
            parts += [text[done : start + 1], breaker, text[start + 1 : end]]
        else:
            parts += [text[done:start], "\ufffd" if breaker else " "]
        done = end
    return "".join([*parts, text[done:]])
