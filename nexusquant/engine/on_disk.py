"""Which models are on this disk: those fetched here, and those in the hub's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, HFValidationError

from nexusquant.engine.downloads import fetched_dir
from nexusquant.engine.models import shard_names
from nexusquant.errors import UnsupportedModelError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model")


@dataclass(frozen=True)
class ModelOnDisk:
    """A model that can be loaded without a network.

    Args:
        name: Hugging Face id.
        folder: Where it is.
        num_bytes: What its weights take on the disk.
    """

    name: str
    folder: Path
    num_bytes: int


def folder_of(name: str, data_dir: Path) -> Path | None:
    """The folder of a model that is on this disk whole; None: it has to be fetched.

    Args:
        name: A folder, or a Hugging Face id.
        data_dir: Folder for the app's data.
    """
    own = Path(name).expanduser()
    if own.is_dir():
        return own
    folders = [fetched_dir(data_dir, name)]
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        folders.append(Path(cached).parent)
    return next(filter(is_whole, folders), None)


def models_on_disk(data_dir: Path) -> tuple[ModelOnDisk, ...]:
    """Models from the hub that are on this disk whole, by name.

    Args:
        data_dir: Folder for the app's data.
    """
    fetched = (data_dir / "models" / "hub").glob("[!.]*--*")
    found = {folder.name.replace("--", "/"): folder for folder in fetched}
    for name, folder in _cached_models():
        found.setdefault(name, folder)
    return tuple(
        ModelOnDisk(name, folder, sum(path.stat().st_size for path in _weights(folder)))
        for name, folder in sorted(found.items())
        if is_whole(folder)
    )


def is_whole(folder: Path) -> bool:
    """Tell whether a folder has a config, a tokenizer and every file of its weights."""
    has_words = any((folder / name).is_file() for name in _TOKENIZERS)
    weights = _weights(folder)
    return has_words and bool(weights) and all(path.is_file() for path in weights)


def _weights(folder: Path) -> list[Path]:
    """The files that a model's weights are in, whether they are there or not."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").is_file():
        return []
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            return [folder / name for name in shard_names(folder)]
        except (OSError, UnsupportedModelError):
            return []
    return [folder / "model.safetensors"]


def _cached_models() -> Iterator[tuple[str, Path]]:
    try:
        cache = scan_cache_dir()
    except (CacheNotFound, OSError):
        return
    for repo in cache.repos:
        for revision in repo.revisions:
            if repo.repo_type == "model" and "main" in revision.refs:
                yield repo.repo_id, revision.snapshot_path
