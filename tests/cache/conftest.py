"""A saved cache that several files open, damage or refuse."""

from __future__ import annotations

import pytest
import tiny_models
from driving import EVICTING

import nexusquant


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "document.nxq"
    nexusquant.prefill(tiny_models.llama(), tiny_models.token_ids(300), EVICTING).save(path)
    return path.read_bytes()


@pytest.fixture
def saved(content, tmp_path):
    """A file of an evicted cache of 300 tokens in `tiny_models.llama()`."""
    path = tmp_path / "document.nxq"
    path.write_bytes(content)
    return path
