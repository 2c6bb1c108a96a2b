"""What people and documents say, made so that a tokenizer reads no control token in it.

Knows a tokenizer's added tokens. Must not know roles, templates or pages.

A string that a tokenizer would read as one of its added tokens (`<|im_end|>`, `[INST]`) gets a
blank inside. The tokenizer itself tells what acts: a normalizer may fold fullwidth bars, lower
capitals or take marks out, so that the strings that act are not only those on its list.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers.tokenization_utils_base import AddedToken, PreTrainedTokenizerBase

from nexusquant.errors import UnsupportedModelError

# a blank is what the model notices least; a hyphen is for tokenizers that take blanks out; an
# empty breaker takes the string itself out
_BREAKERS = (*[" "] * 6, *["-"] * 3, *[""] * 4)
# what may stand between a text and the template's own words where the two make a token together
_GLUES = ("", " ", "\n", "\n-\n")
_REPLACEMENT = "\ufffd"
_MAX_REMEMBERED = 50_000


def well_formed(text: str) -> str:
    """Replace halves of surrogate pairs, which no encoding can write, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class _Found:
    """A control token, and the characters [start, end) that it was read from."""

    token_id: int
    start: int
    end: int


class HarmlessText:
    """Breaks up the control tokens of one tokenizer.

    Control tokens are all special and all added ones, but for blanks and for single characters
    that are not special: those are letters, however they came into the vocabulary.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._controls = _control_tokens(tokenizer)
        self._reach = max(map(len, self._controls.values()), default=0) + 4
        self._marks: re.Pattern[str] | None = None
        # digests of texts in which nothing acts: a chat brings all its messages at every turn
        self._remembered: set[bytes] = set()

    def break_up_also(self, marks: Iterable[str]) -> None:
        """Break up these strings from now on, too: turn marks that are not tokens."""
        longest_first = sorted(set(marks), key=len, reverse=True)
        pattern = "|".join(map(_mark_pattern, longest_first))
        self._marks = re.compile(pattern) if longest_first else None
        self._remembered.clear()

    def of(self, text: str, before: str = "", after: str = "") -> str:
        """Give a text in which nothing acts; the words around a string that would act stay.

        Args:
            text: What was typed, or stands in a document.
            before: What stands in front of it; no token begins there and ends in the text.
            after: What follows it, likewise.

        Raises:
            UnsupportedModelError: The tokenizer makes control tokens of whatever is done.
        """
        text = self._broken_up(well_formed(text))
        for glue in _GLUES:
            glued = f"{glue}{text}{glue}"
            if self._is_clean_cut(before, glued) and self._is_clean_cut(before + glued, after):
                return glued
        raise _hopeless()

    def leading_control(self, text: str) -> int | None:
        """Return the control token that `text` begins with, blanks not counted."""
        text = text.lstrip()[: self._reach]
        first = min(self._found(text), key=lambda found: found.start, default=None)
        return first.token_id if first and first.start == 0 else None

    def _broken_up(self, text: str) -> str:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._remembered:
            return text
        changed = self._marks.sub(lambda mark: _split_mark(mark[0]), text) if self._marks else text
        for breaker in _BREAKERS:
            found = self._found(changed)
            if not found:
                break
            changed = _broken(changed, found, breaker)
        else:
            raise _hopeless()
        if changed == text:
            self._remember(digest)
        return changed

    def _remember(self, digest: bytes) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered.add(digest)

    def _is_clean_cut(self, left: str, right: str) -> bool:
        """Whether the control tokens of two texts stay what they are when they are joined."""
        left, right = left[-self._reach :], right[: self._reach]
        apart = [found.token_id for side in (left, right) for found in self._found(side)]
        return apart == [found.token_id for found in self._found(left + right)]

    def _found(self, text: str) -> list[_Found]:
        if not text or not self._controls:
            return []
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        acting = self._controls.keys() & set(ids)
        if not acting:
            return []
        if not self._tokenizer.is_fast:
            return self._searched(text, acting)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        found = (_Found(i, *_inner(text, *span)) for i, span in pairs if i in acting)
        return [each for each in found if self._is_written(each, text)]

    def _searched(self, text: str, acting: set[int]) -> list[_Found]:
        """Find tokens of a tokenizer that does not say where they stand."""
        found = [
            _Found(number, match.start(), match.end())
            for number in acting
            for match in re.finditer(re.escape(self._controls[number]), text, re.IGNORECASE)
        ]
        if found or acting == {self._tokenizer.unk_token_id}:
            return sorted(found, key=lambda each: each.start)
        # the tokenizer read them from other signs: any may be the one
        signs = re.finditer(r"[^\w\s]", text)
        return [_Found(min(acting), match.start(), match.end()) for match in signs]

    def _is_written(self, found: _Found, text: str) -> bool:
        # the token for what a tokenizer does not know is harmless, unless somebody spells it out
        if found.token_id != self._tokenizer.unk_token_id:
            return True
        return _folded(self._controls[found.token_id]) in _folded(text[found.start : found.end])


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if _is_control(token)
    }
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return added | {number: str(token) for number, token in named if str(token).strip()}


def _is_control(token: AddedToken) -> bool:
    content = token.content.replace("▁", " ").strip()
    return len(content) > 1 or (bool(content) and token.special)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _inner(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the blanks that a token takes in at its sides."""
    end = max(end, start + 1)
    piece = text[start:end]
    if not piece.strip():
        return start, end
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _broken(text: str, found: Sequence[_Found], breaker: str) -> str:
    """Put `breaker` inside each string that acts; a single sign is replaced."""
    parts, done = [], 0
    for each in found:
        if each.start < done:
            continue
        parts.append(text[done : each.start])
        if not breaker:
            parts.append(" ")
        elif each.end - each.start > 1:
            parts += [text[each.start], breaker, text[each.start + 1 : each.end]]
        else:
            parts.append(_REPLACEMENT)
        done = each.end
    return "".join([*parts, text[done:]])


def _mark_pattern(mark: str) -> str:
    """Match a mark; one that is a word (`USER:`) not at the end of a longer word."""
    return rf"(?<!\w){re.escape(mark)}" if mark[0].isalnum() else re.escape(mark)


def _split_mark(mark: str) -> str:
    return f"{mark[:-1]} {mark[-1]}"


def _hopeless() -> UnsupportedModelError:
    return UnsupportedModelError(
        "This model's tokenizer makes control tokens of what was written. Write it in other words, "
        "or choose another model."
    )
