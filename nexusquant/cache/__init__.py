"""State: packed pages of one text, as a transformers cache."""

from nexusquant.cache.attention import ATTENTION_NAME, CacheHandle
from nexusquant.cache.cache import CacheMark, CompressedCache, load_cache
from nexusquant.cache.hf_compat import forward_options, head_dims
from nexusquant.cache.usage import CacheUsage

__all__ = [
    "ATTENTION_NAME",
    "CacheHandle",
    "CacheMark",
    "CacheUsage",
    "CompressedCache",
    "forward_options",
    "head_dims",
    "load_cache",
]
