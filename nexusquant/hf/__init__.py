"""Every touch of transformers' internals: modules, masks, attention and cache classes.

Knows transformers. Must not know packed pages, or what is compressed and why.
"""

from nexusquant.hf.attention_probe import attention_problem, causal_class

__all__ = ["attention_problem", "causal_class"]
