"""The file of a profile: it comes back bit for bit, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import SAFE, read
from safetensors import safe_open
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


def rewrite(path, change):
    """Let `change(header)` lie."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, str(path), metadata={HEADER: json.dumps(header)})


LIES = {
    "a later version": lambda header, _: header.update(format_version=99),
    "a version of another kind": lambda header, _: header.update(format_version="1.0"),
    "no version": lambda header, _: header.pop("format_version"),
    "no pairings": lambda header, _: header.pop("pairings"),
    "pairings are a number": lambda header, _: header.update(pairings=2),
    "an unknown pairing": lambda header, _: header.update(pairings=["thirds", "halves"]),
    "no costs of values": lambda header, _: header.pop("value_costs"),
    "costs of fewer layers": lambda header, _: header.update(value_costs=[1.0]),
    "a layer without its cost": lambda header, _: header.update(value_costs=[1.0, None]),
    "a cost that is no number": lambda header, _: header.update(value_costs=[1.0, "2"]),
    "a cost that is not finite": lambda header, _: header.update(value_costs=[1.0, float("nan")]),
    "a cost below nothing": lambda header, _: header.update(value_costs=[1.0, -1.0]),
    "a basis without its rows": lambda _, tensors: tensors.pop("0.rows"),
    "a basis without its variances": lambda _, tensors: tensors.pop("1.variances"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_says_something_else_is_refused(path, lie):
    rewrite(path, LIES[lie])
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
    for metadata in (None, {HEADER: "no json"}, {HEADER: "[]"}, {HEADER: '"x"'}):
        save_file({"0.mean": torch.ones(3)}, str(path), metadata=metadata)
        with pytest.raises(CacheStateError):
            load_profile(path)
    with pytest.raises(CacheStateError):
        load_profile(tmp_path / "there is none")
    with pytest.raises(CacheStateError):
        load_profile(tmp_path)
