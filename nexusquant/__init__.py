"""Nexusquant: a local model's KV cache in packed bytes.

Importing this changes nothing: no GPU is touched, and transformers stays as it was until the
first `CompressedCache` is made.
"""

from nexusquant.cache import CacheUsage, CompressedCache, ModelProfile, load_cache
from nexusquant.config import (
    PRESETS,
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    RopeScaling,
    RopeScalingKind,
    SamplingParams,
    ScorerName,
)
from nexusquant.engine import build_profile, prefill
from nexusquant.errors import (
    CacheStateError,
    ContextLengthError,
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
    "ContextLengthError",
    "DocumentError",
    "EvictionConfig",
    "ModelProfile",
    "NexusquantError",
    "OutOfMemoryError",
    "QuantConfig",
    "RopeScaling",
    "RopeScalingKind",
    "SamplingParams",
    "ScorerName",
    "UnsupportedModelError",
    "build_profile",
    "load_cache",
    "prefill",
]
