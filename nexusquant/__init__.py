"""Nexusquant: a local model's KV cache in packed bytes.

Importing this changes nothing: no GPU is touched, and transformers stays as it was until the
first `CompressedCache` is made.
"""

from nexusquant.cache import CacheUsage, CompressedCache, load_cache
from nexusquant.config import (
    PRESETS,
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    SamplingParams,
    ScorerName,
)
from nexusquant.engine import prefill
from nexusquant.errors import (
    CacheStateError,
    DocumentError,
    NexusquantError,
    OutOfMemoryError,
    UnsupportedModelError,
)

__all__ = [
    "PRESETS",
    "CacheStateError",
    "CacheUsage",
    "CompressedCache",
    "CompressionConfig",
    "DocumentError",
    "EvictionConfig",
    "NexusquantError",
    "OutOfMemoryError",
    "QuantConfig",
    "SamplingParams",
    "ScorerName",
    "UnsupportedModelError",
    "load_cache",
    "prefill",
]
