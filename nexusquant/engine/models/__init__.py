"""A model's name and folder, believed only after a look: what transformers is then handed."""

from nexusquant.engine.models.folder_check import check_config, check_has_tokenizer, check_tokenizer
from nexusquant.engine.models.pasted_name import understood
from nexusquant.engine.models.small_files import printable
from nexusquant.engine.models.weights_check import (
    WeightFiles,
    check_weights,
    damage_of,
    shard_names,
)

__all__ = [
    "WeightFiles",
    "check_config",
    "check_has_tokenizer",
    "check_tokenizer",
    "check_weights",
    "damage_of",
    "printable",
    "shard_names",
    "understood",
]
