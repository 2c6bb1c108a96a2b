"""The file of a profile: it comes back bit for bit, and what is damaged is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import SAFE, read
from rewriting import rewrite, with_text
from safetensors.torch import save_file

import nexusquant
from nexusquant import CacheStateError
from nexusquant.cache import load_profile, save_profile
from nexusquant.lattice import Pairing

HEADER = "nexusquant_profile"


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.fixture(scope="module")
def profile(model):
    return nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256, seed=7))


@pytest.fixture
def path(profile, tmp_path):
    save_profile(profile, tmp_path / "model.profile")
    return tmp_path / "model.profile"


def assert_same_profile(one, other):
    assert one.pairings == other.pairings
    assert one.value_costs == other.value_costs
    assert len(one.bases) == len(other.bases)
    for mine, others in zip(one.bases, other.bases, strict=True):
        assert (mine is None) == (others is None)
        for part, expected in zip(mine or (), others or (), strict=True):
            assert part.dtype == expected.dtype == torch.float32
            assert torch.equal(part, expected)


def test_a_file_gives_the_profile_back_bit_for_bit(profile, path):
    assert_same_profile(load_profile(path), profile)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_read_profile_codes_like_the_measured_one(model, profile, path):
    document, question = tiny_models.token_ids(300), tiny_models.token_ids(20, seed=2)
    logits = [
        read(model, nexusquant.prefill(model, document, SAFE, profile=each), question)
        for each in (load_profile(path), profile)
    ]
    assert torch.equal(*logits)


def test_layers_without_a_basis_and_other_pairings_come_back(profile, tmp_path):
    changed = replace(
        profile,
        pairings=(Pairing.NEIGHBOURS, Pairing.NONE),
        bases=(None, profile.bases[1]),
        value_costs=(None, profile.value_costs[1]),
    )
    save_profile(changed, tmp_path / "new folder" / "a.profile")
    assert_same_profile(load_profile(tmp_path / "new folder" / "a.profile"), changed)


def test_saving_again_replaces_the_file(profile, path):
    changed = replace(profile, pairings=(Pairing.NONE, Pairing.NONE))
    save_profile(changed, path)
    assert_same_profile(load_profile(path), changed)


LIES = {
    "a later version": lambda _, header: header.update(format_version=99),
    "a version of another kind": lambda _, header: header.update(format_version="1.0"),
    "no version": lambda _, header: header.pop("format_version"),
    "no pairings": lambda _, header: header.pop("pairings"),
    "pairings are a number": lambda _, header: header.update(pairings=2),
    "an unknown pairing": lambda _, header: header.update(pairings=["thirds", "halves"]),
    "no costs of values": lambda _, header: header.pop("value_costs"),
    "costs of fewer layers": lambda _, header: header.update(value_costs=[1.0]),
    "a layer without its cost": lambda _, header: header.update(value_costs=[1.0, None]),
    "a cost that is no number": lambda _, header: header.update(value_costs=[1.0, "2"]),
    "a cost that is not finite": lambda _, header: header.update(value_costs=[1.0, float("nan")]),
    "a cost below nothing": lambda _, header: header.update(value_costs=[1.0, -1.0]),
    "a basis without its rows": lambda tensors, _: tensors.pop("0.rows"),
    "a basis without its variances": lambda tensors, _: tensors.pop("1.variances"),
    "a mean that is no number": lambda tensors, _: tensors["0.mean"].fill_(torch.nan),
    "rows that are not finite": lambda tensors, _: tensors["0.rows"].fill_(torch.inf),
    "variances below nothing": lambda tensors, _: tensors["1.variances"].neg_(),
    "whole numbers": lambda tensors, _: tensors.update({"0.mean": tensors["0.mean"].int()}),
    "doubles": lambda tensors, _: tensors.update({"0.mean": tensors["0.mean"].double()}),
    "a tensor more": lambda tensors, _: tensors.update({"7.mean": torch.ones(2)}),
}
OF_ANOTHER_MODEL = {
    "a layer less": lambda tensors, header: (
        [tensors.pop(f"1.{part}") for part in ("mean", "rows", "variances")],
        header.update(pairings=header["pairings"][:1], value_costs=header["value_costs"][:1]),
    ),
    "no layers": lambda tensors, header: (
        tensors.clear(),
        header.update(pairings=[], value_costs=[]),
    ),
    "a layer that is not compressed": lambda tensors, header: (
        [tensors.pop(f"1.{part}") for part in ("mean", "rows", "variances")],
        header["value_costs"].__setitem__(1, None),
    ),
    "a mean of another size": lambda tensors, _: tensors.update({"0.mean": torch.ones(2, 1, 5)}),
    "a mean of more heads": lambda tensors, _: tensors.update({"0.mean": torch.ones(3, 1, 32)}),
    "rows of another size": lambda tensors, _: tensors.update({"0.rows": torch.ones(2, 32, 8)}),
    "variances of one dimension": lambda tensors, _: tensors.update(
        {"0.variances": tensors["0.variances"].flatten()}
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_says_something_else_is_refused(path, lie):
    rewrite(path, HEADER, LIES[lie])
    with pytest.raises(CacheStateError, match=r"model\.profile is no profile that can be read"):
        load_profile(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CacheStateError):
        load_profile(path)


def test_what_is_no_profile_is_refused(path, tmp_path):
    path.write_bytes(b"# not safetensors\n" * 50)
    with pytest.raises(CacheStateError):
        load_profile(path)
    texts = ("no json", "[]", '"x"', "{}", "[" * 100_000, '{"format_version": 6}', "9" * 6000)
    for metadata in (None, *({HEADER: t} for t in (*texts, *map(with_text, texts)))):
        save_file({"0.mean": torch.ones(3)}, str(path), metadata=metadata)
        with pytest.raises(CacheStateError):
            load_profile(path)
    with pytest.raises(CacheStateError):
        load_profile(tmp_path / "there is none")
    with pytest.raises(CacheStateError):
        load_profile(tmp_path)


@pytest.mark.parametrize("lie", OF_ANOTHER_MODEL)
def test_a_profile_of_another_model_is_refused_for_this_one(model, path, lie):
    load_profile(path, model)
    rewrite(path, HEADER, OF_ANOTHER_MODEL[lie])
    with pytest.raises(CacheStateError, match="no profile that can be read"):
        load_profile(path, model)


@pytest.mark.parametrize("seed", range(10))
def test_a_single_flipped_bit_anywhere_is_noticed(path, seed):
    content, chance = path.read_bytes(), random.Random(seed)
    start = 8 + int.from_bytes(content[:8], "little")
    for first, last in [(0, 64), (64, 8 * start)] + [(8 * start, 8 * len(content))] * 3:
        changed, bit = bytearray(content), chance.randrange(first, last)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CacheStateError):
            load_profile(path)


def test_writing_over_a_file_does_not_change_what_was_read(profile, path):
    read_before = load_profile(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(10)
    assert_same_profile(read_before, profile)
