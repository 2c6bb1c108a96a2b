from __future__ import annotations

import pytest
import torch
from packed_cases import Case, make_case
from tolerances import SAME_SUM, assert_at_most_twice_the_error

from nexusquant.config import CODE_BITS
from nexusquant.kernels import packed_attention
from nexusquant.kernels.decode_attention import reference

LENGTHS = (1, 7, 63, 64, 65, 129, 1000)
SCALING = 0.3


@pytest.fixture(params=["one block", "a page a block"])
def blocks(request, monkeypatch):
    """Lets a block hold everything, or as little as it can."""
    if request.param == "a page a block":
        monkeypatch.setattr(reference, "CPU_BLOCK_BYTES", 1)


def dense_attention(case: Case, dtype, softcap=None, has_packed=True):
    """Attention over decoded vectors, one query head after the other, all arithmetic in `dtype`."""
    num_kv_heads = case.exact_keys.shape[0]
    q_len = case.query.shape[1]
    outputs = []
    for index, query in enumerate(case.query):
        head = index // (case.query.shape[0] // num_kv_heads)
        keys, values = case.exact_keys[head], case.exact_values[head]
        if has_packed:
            keys = torch.cat([case.keys[head].to(dtype), keys.to(dtype)])
            values = torch.cat([case.values[head].to(dtype), values.to(dtype)])
        logits = (query.to(dtype) @ keys.to(dtype).T) * SCALING
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        is_future = torch.ones_like(logits, dtype=torch.bool).triu(keys.shape[0] - q_len + 1)
        outputs.append(logits.masked_fill(is_future, float("-inf")).softmax(-1) @ values.to(dtype))
    return torch.stack(outputs)


def attend(case: Case, softcap=None):
    return packed_attention(
        case.query, case.view, case.exact_keys, case.exact_values, SCALING, softcap
    )


def assert_dense(case: Case, softcap=None):
    exact = dense_attention(case, torch.float64, softcap)
    torch.testing.assert_close(attend(case, softcap).double(), exact, **SAME_SUM)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("q_len", [1, 5])
def test_equals_softmax_over_decoded_vectors(length, q_len):
    assert_dense(make_case([length, length], q_len=q_len))


@pytest.mark.parametrize("dim", [16, 64, 80])
@pytest.mark.parametrize("bits", [(key, value) for key in CODE_BITS for value in CODE_BITS])
def test_equals_softmax_at_every_width_and_head_dim(dim, bits):
    assert_dense(make_case([70, 33], dim=dim, bits=bits))


@pytest.mark.parametrize("groups", [1, 3, 4])
@pytest.mark.parametrize("q_len", [1, 6])
def test_query_heads_read_the_head_of_their_group(groups, q_len):
    assert_dense(make_case([65, 7, 130], groups=groups, q_len=q_len))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("lengths", [[0, 5], [129, 0, 1], [1, 1000, 64], [0, 0], [2047, 65]])
@pytest.mark.parametrize("q_len", [1, 4])
def test_every_head_reads_its_own_number_of_vectors(lengths, q_len):
    assert_dense(make_case(lengths, q_len=q_len))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("softcap", [2.0, 50.0])
@pytest.mark.parametrize("has_mean", [False, True])
def test_softcap_squashes_the_logits_of_all_tokens_alike(softcap, has_mean):
    assert_dense(make_case([129, 64], q_len=3, has_mean=has_mean), softcap)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("q_len", [1, 7])
def test_the_mean_of_keys_is_part_of_every_logit(q_len):
    case = make_case([129, 7], q_len=q_len, has_mean=True)
    assert_dense(case)
    without = case._replace(view=make_case([129, 7], q_len=q_len).view)
    assert not torch.allclose(attend(case), attend(without), atol=0.05)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("num_exact", [1, 63, 1024, 1025, 2500])
@pytest.mark.parametrize("q_len", [1, 40])
def test_exact_vectors_are_causal_across_blocks(num_exact, q_len):
    assert_dense(make_case([65, 3], q_len=q_len, num_exact=num_exact, groups=1))


@pytest.mark.usefixtures("blocks")
def test_more_queries_than_a_block_are_causal():
    assert_dense(make_case([5], q_len=1100, num_exact=1200, groups=1))


def test_without_packed_pages_only_exact_vectors_count():
    case = make_case([64, 64], q_len=3)
    actual = packed_attention(case.query, None, case.exact_keys, case.exact_values, SCALING)
    exact = dense_attention(case, torch.float64, has_packed=False)
    torch.testing.assert_close(actual.double(), exact, **SAME_SUM)


@pytest.mark.usefixtures("blocks")
def test_large_logits_do_not_overflow():
    case = make_case([129, 64], q_len=3)
    case = case._replace(query=case.query * 1e4)
    exact = dense_attention(case, torch.float64)
    torch.testing.assert_close(attend(case).double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("q_len", [1, 5])
def test_half_precision_errs_at_most_twice_as_much_as_plain_torch(dtype, q_len):
    case = make_case([129, 1000], q_len=q_len, dtype=dtype, has_mean=True, dim=64)
    assert_at_most_twice_the_error(
        attend(case), dense_attention(case, dtype), dense_attention(case, torch.float64)
    )


def test_slots_that_hold_no_vector_change_nothing():
    lengths = [1, 65, 0, 127]
    case = make_case(lengths, q_len=2)
    expected = attend(case)
    for poison in (0x00, 0x55):
        view = _repoisoned(case.view, lengths, poison)
        assert torch.equal(attend(case._replace(view=view)), expected)


def _repoisoned(view, lengths, poison):
    pools = []
    for pool in (view.keys, view.values):
        is_used = torch.zeros_like(pool.scales, dtype=torch.bool)
        for row, length in zip(view.page_table, lengths, strict=True):
            for index in range(length):
                is_used[row[index // 64], index % 64] = True
        codes = torch.where(is_used[..., None], pool.codes, poison).to(torch.uint8)
        pools.append(type(pool)(codes, torch.where(is_used, pool.scales, poison).to(torch.uint8)))
    return view._replace(keys=pools[0], values=pools[1])
