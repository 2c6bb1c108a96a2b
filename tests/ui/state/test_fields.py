"""Values of fields become settings, or a sentence about the one that cannot."""

from __future__ import annotations

import math

import pytest

from ui.state.fields import MAX_NEW_TOKENS, own_compression, own_sampling

SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "max_new_tokens": 100,
    "seed": " 7 ",
    "stop": "a\n\nb",
}
COMPRESSION = {
    "key_bits": 2.0,
    "value_bits": 2.0,
    "keep_percent": 50,
    "scorer": "reconstruction",
    "floor_percent": 20,
    "newest_percent": 30,
    "num_sink_tokens": 4,
    "recent_window": 64,
}
ODD = (None, "", "7", [], {}, math.inf, -math.inf, math.nan, 1e300, -1e300, 10**400, -(10**400))


def test_fields_become_settings():
    params = own_sampling(**SAMPLING)
    assert (params.temperature, params.top_k, params.seed) == (0.5, 40, 7)
    assert params.stop == ("a", "b")
    config = own_compression(**COMPRESSION)
    assert config.eviction.keep_ratio == 0.5
    assert config.recent_window == 64


def test_the_longest_answer_has_a_most():
    assert own_sampling(**SAMPLING | {"max_new_tokens": MAX_NEW_TOKENS})
    with pytest.raises(ValueError, match="at most"):
        own_sampling(**SAMPLING | {"max_new_tokens": MAX_NEW_TOKENS + 1})


@pytest.mark.parametrize("name", [*SAMPLING])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_an_odd_value_of_sampling_is_refused_or_harmless(name, value):
    try:
        params = own_sampling(**SAMPLING | {name: value})
    except ValueError as error:
        assert str(error).endswith(".")
        return
    # only what may be empty or is text may pass
    assert name in ("seed", "stop") or math.isfinite(getattr(params, name))


@pytest.mark.parametrize(
    "name", ["keep_percent", "floor_percent", "newest_percent", "num_sink_tokens", "recent_window"]
)
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_an_odd_value_of_compression_is_refused(name, value):
    with pytest.raises(ValueError, match=r"\.$"):
        own_compression(**COMPRESSION | {name: value})


@pytest.mark.parametrize(
    "seed", ["x", "1.5", "9" * 30, "9" * 5000, "0x10", "\u0663\u0664 x", "-" * 50]
)
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        own_sampling(**SAMPLING | {"seed": seed})
