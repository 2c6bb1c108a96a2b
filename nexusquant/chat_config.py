"""What settings become for a chat. Knows configs only; must not know models, caches or turns.

A chat differs from a document in what is asked of it: facts that were told once, among much that is
like them, in a text that grows and is never read as a whole.
"""

from __future__ import annotations

from dataclasses import replace

from nexusquant.config import (
    PROMISED_FROM,
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    ScorerName,
)

CHAT_WINDOW = 16
"""Newest tokens that a chat keeps exact, at least: a turn is read from what is left of others."""

SETTLE_SPAN = 128
"""Tokens of past turns that are thinned out together, once not all may stay."""

ANSWER_TOKENS = 150
"""Those of a usual answer, for which there is to be room: it is in time only for the next turn."""

KEY_STRETCH, COARSE_KEY_BITS = 1.015, 3
"""Keys of fewer bits are stretched in a chat. Errors of many keys add to the weight of what a query
does not look for; a little sharper, attention finds what it finds in exact keys. What a text says
by itself is followed a little less exactly for it."""

_EXACT_BITS = 32


def chat_config(config: CompressionConfig) -> CompressionConfig:
    """The same for a chat, which is to take no more bytes for it than a text as long.

    Or than one of `PROMISED_FROM` tokens, while it is shorter. Turns wait in codes until they are
    as many as such a text keeps, less what exact tokens and an answer take; then they are thinned
    out to so much less. What is longer than a usual answer is too much until the next turn. Where
    the scorer reads once, queries are gone by then: nothing waits.
    """
    if config.is_off:
        return config
    window = max(config.recent_window, CHAT_WINDOW)
    chat = replace(config, quant=_stretched(config.quant), recent_window=window)
    if not _goes_in_turns(config.eviction):
        return chat
    # what goes back to the last turn's beginning holds the window of that moment too
    num_exact = 2 * window - config.recent_window
    in_codes = round(num_exact * _EXACT_BITS / (config.quant.key_bits + config.quant.value_bits))
    return replace(chat, eviction=_in_turns(config.eviction, in_codes + ANSWER_TOKENS))


def _stretched(quant: QuantConfig) -> QuantConfig:
    is_own = quant.key_stretch != 1
    if is_own or quant.key_bits >= COARSE_KEY_BITS:
        return quant
    return replace(quant, key_stretch=KEY_STRETCH)


def _goes_in_turns(eviction: EvictionConfig | None) -> bool:
    """Whether turns are to wait, and nobody said already how long."""
    if eviction is None or eviction.keep_ratio == 1:
        return False
    is_said = eviction.keeps_up_to or eviction.settle_span or eviction.reserve
    return eviction.scorer is ScorerName.RECONSTRUCTION and not is_said


def _in_turns(eviction: EvictionConfig, num_taken: int) -> EvictionConfig:
    """Of a text that comes in turns, beside which there is to be room for `num_taken` pairs."""
    span = min(eviction.min_span, SETTLE_SPAN)
    most = max(0, round(eviction.keep_ratio * PROMISED_FROM) - num_taken)
    return replace(eviction, keeps_up_to=most, settle_span=span, reserve=num_taken + span)
