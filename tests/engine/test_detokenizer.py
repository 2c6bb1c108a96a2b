"""Text arrives in whole characters and without stop texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusquant.engine.detokenizer import Detokenizer


class ByteTokenizer:
    """One token is one UTF-8 byte."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")


def stream(text: str, stop: Sequence[str] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(ByteTokenizer(), stop)
    pieces = []
    for byte in text.encode():
        pieces.append(detokenizer.add(byte))
        if detokenizer.is_stopped:
            break
    return [*pieces, detokenizer.finish()], detokenizer


@given(st.text(alphabet=st.characters(exclude_characters="\ufffd", codec="utf-8"), max_size=60))
def test_pieces_join_to_the_text_and_never_hold_half_a_character(text: str) -> None:
    pieces, _ = stream(text)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


@given(
    st.text(alphabet="abE", max_size=30),
    st.lists(st.text(alphabet="abE", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_from_the_first_stop_text_on_is_given_out(text: str, stop: list[str]) -> None:
    pieces, detokenizer = stream(text, stop)
    # the stream ends as soon as any stop text is complete
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    if not ends:
        assert "".join(pieces) == text
        assert not detokenizer.is_stopped
        return
    seen = text[: ends[0]]
    assert "".join(pieces) == seen[: min(seen.find(s) for s in stop if s in seen)]
    assert detokenizer.is_stopped


def test_text_that_only_begins_a_stop_text_comes_out_at_the_end() -> None:
    pieces, _ = stream("wait EN", stop=["END"])
    assert "".join(pieces) == "wait EN"
    assert pieces[-1] == "EN"


@pytest.mark.parametrize("text", ["naïve café", "日本語", "👩‍👩‍👧"])
def test_multi_byte_text_survives(text: str) -> None:
    assert "".join(stream(text)[0]) == text
