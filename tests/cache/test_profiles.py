"""Caches with a profile of the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, OFF, SAFE, TWO_BIT, decode, read
from tolerances import error
from transformers import SmolLM3Config, SmolLM3ForCausalLM

import nexusquant
from nexusquant import CompressedCache, QuantConfig, load_cache
from nexusquant.lattice import E8Quantizer, Pairing, key_quantizer

# values nearly exact: what is lost is lost in keys
KEYS_ALONE = replace(TWO_BIT, quant=QuantConfig(key_bits=2, value_bits=4))
CONFIGS = {"two bits": TWO_BIT, "safe": SAFE, "evicting": EVICTING}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)

seen = tiny_models.token_ids(256, seed=7)
document = tiny_models.token_ids(300)
question = tiny_models.token_ids(120, seed=2)
answer = tiny_models.token_ids(110, seed=3)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.fixture(scope="module")
def profile(model):
    return nexusquant.build_profile(model, token_ids=seen)


def filled(model, profile, config):
    return nexusquant.prefill(model, document, config, profile=profile)


def turn(model, cache, num_new=3):
    return torch.cat([read(model, cache, question), decode(model, cache, answer[:, :num_new])])


def relative_error(model, profile, config):
    expected = turn(model, nexusquant.prefill(model, document, OFF))
    return error(turn(model, filled(model, profile, config)), expected) / float(expected.std())


@each_config
def test_a_saved_cache_continues_bit_for_bit(model, profile, tmp_path, config):
    cache = filled(model, profile, config)
    decode(model, cache, tiny_models.token_ids(20, seed=8))
    cache.save(tmp_path / "a.nxq")
    # the file alone is enough: it holds the coders that it was made with
    loaded = load_cache(tmp_path / "a.nxq", model)
    assert loaded.usage() == cache.usage()
    assert torch.equal(turn(model, loaded, 110), turn(model, cache, 110))


@each_config
def test_a_cache_with_another_profile_takes_the_coders_of_the_file(
    model, profile, tmp_path, config
):
    cache = filled(model, profile, config)
    cache.save(tmp_path / "a.nxq")
    other = nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256, seed=9))
    loaded = CompressedCache(model, config, other)
    loaded.restore(tmp_path / "a.nxq")
    assert torch.equal(turn(model, loaded, 80), turn(model, cache, 80))


def test_the_file_remembers_how_its_keys_were_turned(model, profile, tmp_path):
    # a pairing is found out by trying; the trial may end otherwise on the machine that loads
    cache = filled(model, replace(profile, pairings=(Pairing.NONE, Pairing.NONE)), SAFE)
    cache.save(tmp_path / "a.nxq")
    expected = turn(model, cache)
    assert torch.equal(turn(model, load_cache(tmp_path / "a.nxq", model)), expected)


@each_config
def test_the_same_turn_after_rewind_gives_the_same_logits(model, profile, config):
    cache = filled(model, profile, config)
    mark = cache.mark()
    first = turn(model, cache, 75)
    cache.rewind(mark)
    assert torch.equal(turn(model, cache, 75), first)


@each_config
def test_after_reset_or_rewind_to_nothing_the_profile_is_still_in_use(model, profile, config):
    cache = CompressedCache(model, config, profile)
    empty = cache.mark()
    read(model, cache, document)
    cache.finish_prefill()
    first = turn(model, cache)
    coders = [layer.codec.keys for layer in cache.layers]
    for go_back in (lambda: cache.rewind(empty), cache.reset):
        go_back()
        read(model, cache, document)
        cache.finish_prefill()
        assert [layer.codec.keys for layer in cache.layers] == coders
        assert torch.equal(turn(model, cache), first)


def test_two_caches_of_one_profile_do_not_see_each_other(model, profile):
    before = [[part.clone() for part in basis] for basis in profile.bases]
    expected = turn(model, filled(model, profile, SAFE))
    one, other = filled(model, profile, SAFE), CompressedCache(model, EVICTING, profile)
    read(model, other, question)
    decode(model, other, answer)
    assert torch.equal(turn(model, one), expected)
    other.reset()
    assert one.num_seen_tokens == 423
    assert torch.equal(turn(model, filled(model, profile, SAFE)), expected)
    for basis, parts in zip(profile.bases, before, strict=True):
        assert all(torch.equal(now, then) for now, then in zip(basis, parts, strict=True))


def test_bytes_of_a_cache_with_a_profile_are_those_that_are_reachable(model, profile):
    cache = filled(model, profile, TWO_BIT)
    assert cache.usage().stored_bytes == reachable_bytes(cache)


@pytest.mark.parametrize("key_bits", [1, 1.5, 2, 3, 4])
def test_keys_of_all_layers_together_stay_in_their_bits(model, profile, key_bits):
    config = replace(TWO_BIT, quant=replace(TWO_BIT.quant, key_bits=key_bits))
    cache = CompressedCache(model, config, profile)
    widths = [layer.codec.keys.widths for layer in cache.layers]
    num_groups = sum(map(len, widths))
    assert num_groups == 4
    assert key_bits * num_groups - 1 < sum(map(sum, widths)) <= key_bits * num_groups


def test_values_get_bits_by_layer_which_a_saved_cache_keeps(tmp_path):
    model = tiny_models.smollm_shaped(num_layers=4)
    profile = nexusquant.build_profile(model, token_ids=seen)
    profile = replace(profile, value_costs=(1.0, 1e4, 1.0, 1e4))
    config = replace(TWO_BIT, quant=replace(TWO_BIT.quant, value_bits=2.5))
    cache = filled(model, profile, config)
    values = [layer.codec.values for layer in cache.layers]
    assert [coder.widths for coder in values] == [(2,) * 8, (3,) * 8] * 2
    cache.save(tmp_path / "a.nxq")
    loaded = load_cache(tmp_path / "a.nxq", model)
    for coders in (values, [layer.codec.values for layer in loaded.layers]):
        # a rotation is memory too: layers with the same widths share theirs
        assert coders[0] is coders[2]
        assert coders[1] is coders[3]
        assert coders[0] is not coders[1]
    assert loaded.usage() == cache.usage()
    assert cache.usage().stored_bytes == reachable_bytes(cache)
    assert torch.equal(turn(model, loaded), turn(model, cache))


def test_layers_whose_errors_cost_nothing_leave_their_bits_to_others():
    model = tiny_models.llama()
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    profile = nexusquant.build_profile(model, token_ids=seen)
    first, last = CompressedCache(model, TWO_BIT, profile).layers
    assert (first.codec.keys.widths, last.codec.keys.widths) == ((4, 3), (1, 0))


def plain_rotation(basis, widths):
    """Stands in for `key_quantizer`: nothing of the model is used."""
    num_heads, dim, _ = basis.rows.shape
    coder = E8Quantizer.create(dim, 2, seed=0, device="cpu")
    parts = (coder.basis, coder.column_units, coder.gains)
    mean = torch.zeros_like(basis.mean)
    return E8Quantizer(coder.widths, *(part.expand(num_heads, *part.shape) for part in parts), mean)


@pytest.mark.parametrize(
    ("make", "factor"),
    [(tiny_models.smollm_shaped, 0.85), (lambda: tiny_models.qwen2(key_bias=12.0), 0.4)],
    ids=["even keys", "large key channels"],
)
def test_a_profile_brings_the_logits_closer_than_a_plain_rotation(monkeypatch, make, factor):
    model = make()
    profile = nexusquant.build_profile(model, token_ids=seen)
    with_profile = relative_error(model, profile, KEYS_ALONE)
    monkeypatch.setattr("nexusquant.cache.profile.key_quantizer", plain_rotation)
    # coders are made once for a profile: this is another one
    assert 0 < with_profile < factor * relative_error(model, replace(profile), KEYS_ALONE)


def test_coders_are_made_once_for_a_profile_and_some_bits(monkeypatch):
    model, made = tiny_models.llama(), []
    profile = nexusquant.build_profile(model, token_ids=seen)

    def noted(basis, widths):
        made.append(widths)
        return key_quantizer(basis, widths)

    monkeypatch.setattr("nexusquant.cache.profile.key_quantizer", noted)
    counts = []
    for preset in ("safe", "safe", "high", "safe"):
        CompressedCache(model, nexusquant.PRESETS[preset], profile)
        counts.append(len(made))
    num_layers = model.config.num_hidden_layers
    assert counts == [num_layers, num_layers, 2 * num_layers, 2 * num_layers]


def two_bit_error(dtype, norm):
    # two channels of each head carry the bias
    model = tiny_models.qwen2(key_bias=norm / 2**0.5).to(dtype)
    profile = nexusquant.build_profile(model, token_ids=seen)
    return relative_error(model, profile, KEYS_ALONE)


@pytest.mark.parametrize(
    ("dtype", "norm"),
    [
        *((dtype, norm) for dtype in (torch.float32, torch.float16) for norm in (30, 300, 900)),
        *((torch.bfloat16, norm) for norm in (30, 300)),
    ],
    ids=str,
)
def test_a_constant_part_of_keys_costs_at_most_as_much_again(dtype, norm):
    assert two_bit_error(dtype, norm) < 2 * two_bit_error(dtype, 0)


def test_a_constant_part_that_bfloat16_rounds_coarsely_costs_a_little_more():
    # its steps of 4 have to be coded too: that leaves .09 of the logits' deviation, and without a
    # constant part .04
    assert two_bit_error(torch.bfloat16, 900) < 2.5 * two_bit_error(torch.bfloat16, 0)


def with_an_odd_layer():
    """Three layers; keys of the middle one have 20 values and take no rotation."""
    model = tiny_models.of_family(
        SmolLM3ForCausalLM,
        SmolLM3Config,
        head_dim=16,
        num_hidden_layers=3,
        no_rope_layers=[1, 0, 1],
    )
    attention = model.model.layers[1].self_attn
    attention.head_dim = 20
    for name, num_heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2)):
        setattr(attention, name, torch.nn.Linear(64, 20 * num_heads, bias=False))
    attention.o_proj = torch.nn.Linear(80, 64, bias=False)
    return model


def test_a_head_dim_that_is_no_multiple_of_8_leaves_its_layer_exact(monkeypatch):
    model = with_an_odd_layer()
    monkeypatch.setattr("nexusquant.cache.hf_compat.head_dims", lambda _: [16, 20, 16])
    profile = nexusquant.build_profile(model, token_ids=seen)
    assert [basis is None for basis in profile.bases] == [False, True, False]
    assert profile.pairings == (Pairing.HALVES, Pairing.NONE, Pairing.HALVES)
    cache = filled(model, profile, KEYS_ALONE)
    assert cache.usage().uncompressed_layers == (1,)
    assert cache.usage().num_quantized_pairs == 2 * 2 * (300 - 36)
    assert cache.layers[1].num_recent == 300
    assert 0 < relative_error(model, profile, KEYS_ALONE) < 0.15


def test_a_model_of_odd_heads_has_a_profile_that_compresses_nothing():
    model = tiny_models.llama(head_dim=20)
    profile = nexusquant.build_profile(model, token_ids=seen)
    assert profile.bases == (None, None)
    cache = filled(model, profile, SAFE)
    assert cache.usage().uncompressed_layers == (0, 1)
    assert torch.equal(turn(model, cache), turn(model, nexusquant.prefill(model, document, OFF)))


def test_sliding_layers_have_no_basis_and_full_ones_beside_them_do():
    model = tiny_models.gemma3()
    profile = nexusquant.build_profile(model, token_ids=seen)
    assert profile.bases[0] is None
    assert profile.bases[1].rows.shape == (2, 16, 16)
    assert 0 < relative_error(model, profile, TWO_BIT) < 0.12
