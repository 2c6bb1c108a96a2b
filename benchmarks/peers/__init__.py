"""What others do with a KV cache, each as small and as strong as it honestly can be.

Knows no model and no measurement. A peer is a list of cache layers for transformers.
"""

from peers.coded_layer import CodedLayer
from peers.hadamard_e8 import HadamardE8
from peers.sixteen_bit import SixteenBitLayer
from peers.transformers_quantized import TRANSFORMERS_SETTINGS, transformers_layers
from peers.turboquant import TurboQuant

__all__ = [
    "TRANSFORMERS_SETTINGS",
    "CodedLayer",
    "HadamardE8",
    "SixteenBitLayer",
    "TurboQuant",
    "transformers_layers",
]
