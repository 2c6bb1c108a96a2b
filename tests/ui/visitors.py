"""Services over a fake engine, and somebody who asks for something."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from fake_engine import FakeEngine

from nexusquant.config import SamplingParams
from ui.services import InitialSettings, Services


def make_services(
    engine: FakeEngine, data_dir, *, preset: str | None = "balanced", **more
) -> Services:
    initial = InitialSettings(
        preset=preset, sampling=SamplingParams(), model_name=None, data_dir=data_dir
    )
    return Services(engine, initial, **more)


def person(name: str | None = None, host: str = "127.0.0.1", page: str = "page-1"):
    """A request as handlers see it."""
    client = SimpleNamespace(host=host)
    return SimpleNamespace(username=name, client=client, session_hash=page, query_params={})


def uploaded(services: Services, path: Path, owner: str = "local") -> str:
    """Upload a file of this disk as a page does; the id that a handler takes."""
    with services.uploads.begin(owner, path.name) as arriving:
        arriving.write(path.read_bytes())
        return arriving.finish().id
