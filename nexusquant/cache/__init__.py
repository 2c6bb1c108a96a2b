"""State: packed pages of one text, as a transformers cache."""

from nexusquant.cache.attention import ATTENTION_NAME, CacheHandle
from nexusquant.cache.cache import CacheMark, CompressedCache
from nexusquant.cache.codec import CODED_AT_ONCE
from nexusquant.cache.hf_compat import forward_options, head_dims
from nexusquant.cache.hf_devices import layer_devices, named_weights
from nexusquant.cache.hf_measuring import checkpointed, watched_past
from nexusquant.cache.hf_one_token import OneTokenForwards
from nexusquant.cache.kernel_sizes import REBUILT_BYTES, have_kernels, kernel_table_bytes
from nexusquant.cache.layer_choice import supported_layers
from nexusquant.cache.profile import ModelProfile
from nexusquant.cache.profile_builder import ProfileBuilder
from nexusquant.cache.profile_file import FORMAT_VERSION as PROFILE_FORMAT_VERSION
from nexusquant.cache.profile_file import load_profile, save_profile
from nexusquant.cache.rereading import REREAD_BYTES
from nexusquant.cache.saved import load_cache
from nexusquant.cache.scaled_rope import can_be_scaled, scalings_for
from nexusquant.cache.steps import CacheSteps, steps_problem
from nexusquant.cache.storage import fingerprint
from nexusquant.cache.stored_size import (
    BLOCK_BYTES,
    LayerShape,
    StoredParts,
    StoredSize,
    layer_shapes,
)
from nexusquant.cache.usage import CacheUsage
from nexusquant.kernels import decode_problem, needs_masks, triton_problem

__all__ = [
    "ATTENTION_NAME",
    "BLOCK_BYTES",
    "CODED_AT_ONCE",
    "PROFILE_FORMAT_VERSION",
    "REBUILT_BYTES",
    "REREAD_BYTES",
    "CacheHandle",
    "CacheMark",
    "CacheSteps",
    "CacheUsage",
    "CompressedCache",
    "LayerShape",
    "ModelProfile",
    "OneTokenForwards",
    "ProfileBuilder",
    "StoredParts",
    "StoredSize",
    "can_be_scaled",
    "checkpointed",
    "decode_problem",
    "fingerprint",
    "forward_options",
    "have_kernels",
    "head_dims",
    "kernel_table_bytes",
    "layer_devices",
    "layer_shapes",
    "load_cache",
    "load_profile",
    "named_weights",
    "needs_masks",
    "save_profile",
    "scalings_for",
    "steps_problem",
    "supported_layers",
    "triton_problem",
    "watched_past",
]
