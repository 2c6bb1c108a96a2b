"""Text to token ids, in one way for counting, reading and finding pages.

Knows what tokenizers add at the beginning of a text. Must not know templates, models or caches.
"""

from __future__ import annotations

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_LINE_END = "\n"


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, is_start: bool) -> list[int]:
    """Tokens of a text as a model reads it.

    Args:
        tokenizer: Of the model.
        text: What is to be read.
        is_start: Whether nothing was read before it. Only then comes the token that begins a text
            (if the text has not got it), and the blank that some tokenizers put in front.
    """
    if is_start:
        ids = _plain_ids(tokenizer, text)
        return [tokenizer.bos_token_id, *ids] if _needs_first_token(tokenizer, text) else ids
    line_end = _plain_ids(tokenizer, _LINE_END)
    if not text or _plain_ids(tokenizer, f"{_LINE_END}a") == line_end + _plain_ids(tokenizer, "a"):
        return _plain_ids(tokenizer, text)
    ids = _plain_ids(tokenizer, _LINE_END + text)
    follows = ids[: len(line_end)] == line_end
    return ids[len(line_end) :] if follows else _plain_ids(tokenizer, text)


def token_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """First character of each of `token_ids(tokenizer, text, is_start=True)`, ascending."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in encoded["offset_mapping"]]
    return [0, *starts] if _needs_first_token(tokenizer, text) else starts


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _needs_first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    # a template writes its own special tokens
    first = tokenizer.bos_token
    if not first or text.startswith(first):
        return False
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
