"""Fixtures that several folders share: the real model, made ready once for all runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

R_MANUAL = Path("/usr/share/R/doc/manual/R-intro.pdf")


def pytest_configure(config: pytest.Config) -> None:
    """What Triton builds for a test is kept beside the other files of tests, not at home."""
    if hasattr(config, "cache"):
        os.environ.setdefault("TRITON_CACHE_DIR", str(config.cache.mkdir("triton")))


@pytest.fixture(scope="module", autouse=True)
def all_cores(request: pytest.FixtureRequest) -> Iterator[None]:
    """The real model uses every core; tiny ones are quickest on the threads they are given."""
    if request.node.get_closest_marker("model") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """A data folder with the embedded model in it, kept between runs in pytest's cache."""
    from nexusquant.engine.default_model import prepare_default_model

    folder = request.config.cache.mkdir("nexusquant-data")
    for _ in prepare_default_model(folder):
        pass
    return folder


@pytest.fixture(scope="session")
def smollm(data_dir: Path):
    """SmolLM2-135M-Instruct in float32 on the CPU, as a `LoadedModel`."""
    from nexusquant.engine import load_embedded_model

    return load_embedded_model(data_dir, device="cpu")


@pytest.fixture(scope="session")
def r_manual() -> Path:
    """A real PDF: the manual `R-intro.pdf` of Debian's package r-doc-pdf."""
    if not R_MANUAL.is_file():
        pytest.skip(f"{R_MANUAL} is missing (Debian: apt-get install r-doc-pdf)")
    return R_MANUAL
