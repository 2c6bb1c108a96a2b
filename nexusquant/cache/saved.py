"""Opens what `CompressedCache.save` wrote. Knows no format: that is `storage`."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from nexusquant.cache import storage
from nexusquant.cache.cache import CompressedCache
from nexusquant.config import CompressionConfig, RopeScaling


def load_cache(
    path: str | Path,
    model: PreTrainedModel,
    config: CompressionConfig | None = None,
    scaling: RopeScaling | None = None,
) -> CompressedCache:
    """Open a saved cache.

    Args:
        path: File written by `CompressedCache.save`.
        model: The model that filled it.
        config: What the cache must have been compressed with; None accepts whatever the file says.
        scaling: How the text's positions were scaled.

    Raises:
        CacheStateError: The file belongs to another model, config or format version, or is damaged.
    """
    cache = CompressedCache(model, config or storage.read_config(Path(path)), None, scaling)
    cache.restore(path)
    return cache
