"""What settings become for a chat, by configs alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from nexusquant.chat_config import (
    ANSWER_TOKENS,
    CHAT_WINDOW,
    COARSE_KEY_BITS,
    KEY_STRETCH,
    chat_config,
)
from nexusquant.config import (
    PRESETS,
    PROMISED_FROM,
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    ScorerName,
)

EVICTING = [name for name, config in PRESETS.items() if config.eviction]


def test_what_is_off_stays_as_it_is() -> None:
    assert chat_config(PRESETS["off"]) is PRESETS["off"]


def test_without_eviction_about_a_turn_stays_exact_and_coarse_keys_are_stretched() -> None:
    safe = replace(PRESETS["safe"], recent_window=CHAT_WINDOW - 1)
    stretched = replace(safe.quant, key_stretch=KEY_STRETCH)
    assert chat_config(safe) == replace(safe, quant=stretched, recent_window=CHAT_WINDOW)
    wider = replace(safe, recent_window=CHAT_WINDOW + 1)
    assert chat_config(wider).recent_window == CHAT_WINDOW + 1


def test_fine_keys_are_not_stretched() -> None:
    fine = CompressionConfig(quant=QuantConfig(key_bits=COARSE_KEY_BITS, value_bits=2))
    assert chat_config(fine).quant == fine.quant


def test_scorers_that_read_once_do_not_wait() -> None:
    eviction = EvictionConfig(keep_ratio=0.3, scorer=ScorerName.SNAPKV)
    once = replace(PRESETS["balanced"], eviction=eviction)
    assert chat_config(once).eviction == eviction


@pytest.mark.parametrize("name", EVICTING)
def test_turns_exact_tokens_and_an_answer_are_as_many_bits_as_a_text_keeps(name: str) -> None:
    config, chat = PRESETS[name], chat_config(PRESETS[name])
    pair_bits = config.quant.key_bits + config.quant.value_bits

    def bits(num_coded: float, num_exact: int) -> float:
        return num_coded * pair_bits + num_exact * 32

    text = bits(config.eviction.keep_ratio * PROMISED_FROM, config.recent_window)
    # the window, and that of the moment that the last turn began
    num_exact = 2 * chat.recent_window
    waiting = chat.eviction.keeps_up_to + ANSWER_TOKENS
    assert 0.95 * text < bits(waiting, num_exact) <= text + pair_bits
    kept = chat.eviction.share_of(0, PROMISED_FROM) * PROMISED_FROM
    thinned = kept + chat.eviction.settle_span + ANSWER_TOKENS
    assert 0.95 * text < bits(thinned, num_exact) <= text + pair_bits


def test_a_longer_chat_keeps_more_of_what_is_new_and_never_more_than_a_text() -> None:
    eviction = chat_config(PRESETS["max"]).eviction
    lengths = [1000, PROMISED_FROM, 2 * PROMISED_FROM, 100 * PROMISED_FROM]
    shares = [eviction.share_of(0, length) for length in lengths]
    assert shares[0] == shares[1] < shares[2] < shares[3] < eviction.keep_ratio
    assert PRESETS["max"].eviction.share_of(0, 1000) == eviction.keep_ratio


@pytest.mark.parametrize("num_turns", [1, 7, 400])
def test_in_turns_as_much_is_kept_as_at_once(num_turns: int) -> None:
    eviction = chat_config(PRESETS["balanced"]).eviction
    total = 5 * PROMISED_FROM
    ends = [total * turn // num_turns for turn in range(num_turns + 1)]
    spans = list(pairwise(ends))
    kept = sum(eviction.share_of(start, stop) * (stop - start) for start, stop in spans)
    # shares have four digits
    expected = eviction.keep_ratio * total - eviction.reserve
    assert kept == pytest.approx(expected, abs=total / 10_000)


def test_what_the_caller_chose_for_chats_stays() -> None:
    once = chat_config(PRESETS["max"])
    assert chat_config(once) == once
    own = replace(PRESETS["max"], quant=QuantConfig(key_stretch=1.05))
    assert chat_config(own).quant == own.quant
    everything = replace(PRESETS["max"], eviction=EvictionConfig(keep_ratio=1.0))
    assert chat_config(everything).eviction == everything.eviction


def test_a_chat_with_next_to_no_room_keeps_a_little_of_everything() -> None:
    eviction = EvictionConfig(keep_ratio=0.01)
    chat = chat_config(replace(PRESETS["max"], eviction=eviction)).eviction
    assert chat.share_of(0, 1000) == pytest.approx(0.0025)
    assert chat.keeps_up_to == 0
