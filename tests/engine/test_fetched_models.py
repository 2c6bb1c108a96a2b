"""From a name to a model that answers: fetched by the engine, stopped half-way, then from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from fake_hub import FakeHub, serve_as_the_hub
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nexusquant.engine import Engine, Job, JobState, LoadProgress
from nexusquant.engine.downloads import fetched_dir
from nexusquant.errors import NexusquantError

NAME = "somebody/tiny-llama"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What such a model's page on the hub holds."""
    folder = tmp_path_factory.mktemp("upload")
    # large enough for several looks at a download
    tiny_models.llama(head_dim=256).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_as_the_hub(FakeHub(NAME, files), monkeypatch) as hub:
        yield hub


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path, device="cpu")
    yield engine
    engine.close()


def ended(job: Job) -> list[LoadProgress]:
    return [event for batch in job.batches() for event in batch]


def test_a_name_becomes_a_model_and_the_next_time_nothing_is_asked(
    hub: FakeHub, engine: Engine, tmp_path: Path
) -> None:
    first = engine.load(NAME)
    texts = [event.text for event in ended(first)]
    assert first.state is JobState.DONE, first.error
    assert texts[0] == f"Looking up {NAME}"
    assert texts[-1] == f"{NAME} is ready"
    assert engine.info.name == NAME
    assert [model.name for model in engine.models_on_disk()] == [NAME]
    hub.requests.clear()
    hub.close()
    again = engine.load(NAME)
    ended(again)
    assert again.state is JobState.DONE, again.error
    assert hub.requests == []


def test_what_cannot_work_here_is_refused_before_its_weights_come(
    hub: FakeHub, engine: Engine, tmp_path: Path
) -> None:
    hub.files["config.json"] = b'{"model_type": "mamba", "num_hidden_layers": 2}'
    job = engine.load(NAME)
    ended(job)
    assert job.state is JobState.FAILED
    assert "attention" in str(job.error)
    assert not any(name.endswith(".safetensors") for name, _ in hub.requests)


def test_a_download_that_is_stopped_leaves_the_model_in_use(
    hub: FakeHub, engine: Engine, tmp_path: Path
) -> None:
    ended(engine.load(NAME))
    before = engine.info
    hub.name = "somebody/other"
    hub.waits = True
    job = engine.load(hub.name)
    while not hub.requests or not hub.requests[-1][0].endswith(".safetensors"):
        assert not job.wait(0.01)
    job.cancel()
    hub.waits = False
    ended(job)
    assert job.state is JobState.CANCELLED
    assert engine.info is before
    assert not fetched_dir(tmp_path, hub.name).exists()


@pytest.mark.parametrize("change", ["cut", "empty", "pointer", "longer"])
def test_a_damaged_model_is_fetched_again_but_for_what_is_whole(
    hub: FakeHub, engine: Engine, tmp_path: Path, change: str
) -> None:
    ended(engine.load(NAME))
    weights = fetched_dir(tmp_path, NAME) / "model.safetensors"
    whole = weights.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:5f\nsize 9\n"
    damaged = {"cut": whole[:40_000], "empty": b"", "pointer": pointer, "longer": whole + b"0"}
    weights.write_bytes(damaged[change])
    hub.requests.clear()
    job = engine.load(NAME)
    texts = [event.text for event in ended(job)]
    assert job.state is JobState.DONE, job.error
    assert any("model.safetensors" in text and "fetched again" in text for text in texts)
    assert weights.read_bytes() == whole
    assert [name for name, _ in hub.requests if not name.endswith("model.safetensors")] == []


def test_a_damaged_model_stays_as_it_is_without_a_connection(
    hub: FakeHub, engine: Engine, tmp_path: Path
) -> None:
    ended(engine.load(NAME))
    weights = fetched_dir(tmp_path, NAME) / "model.safetensors"
    weights.write_bytes(b"")
    hub.close()
    job = engine.load(NAME)
    ended(job)
    assert job.state is JobState.FAILED
    assert isinstance(job.error, NexusquantError)
    assert weights.is_file()
