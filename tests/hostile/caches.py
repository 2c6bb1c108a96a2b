"""Hostile files of saved caches: damaged, and lying with right checksums.

Each must be refused with a sentence and leave the cache empty, or be opened and work: then a file
that was only damaged must say what it said before.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import tiny_models
import torch
from attempt import Attempt
from damage import damage_bytes, lie

import nexusquant
from nexusquant import CacheStateError, CompressionConfig, EvictionConfig, QuantConfig
from nexusquant.config import PRESETS

KIND = "nexusquant"
CONFIGS = {
    "off": PRESETS["off"],
    "safe": PRESETS["safe"],
    "evicting": CompressionConfig(
        quant=QuantConfig(), eviction=EvictionConfig(keep_ratio=0.4, min_span=32)
    ),
}
DOCUMENT, QUESTION = tiny_models.token_ids(220), tiny_models.token_ids(12, seed=3)


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """So many hostile files.

    Args:
        rng: The one source of chance.
        count: How many.
        folder: Where files may be written.
    """
    model = tiny_models.llama()
    wholes = {}
    for name, config in CONFIGS.items():
        path = folder / f"{name}.nxq"
        nexusquant.prefill(model, DOCUMENT, config).save(path)
        wholes[name] = path.read_bytes()
    right = {
        name: _answer(model, nexusquant.load_cache(folder / f"{name}.nxq", model))
        for name in CONFIGS
    }
    for number in range(count):
        name, seed = rng.choice(sorted(CONFIGS)), rng.getrandbits(64)
        is_lie = rng.random() < 0.6
        path = folder / "hostile.nxq"
        run = functools.partial(_run, seed, is_lie, path, wholes[name], right[name], model)
        yield Attempt(f"{number}: {name}, {'lie' if is_lie else 'damage'} of seed {seed}", run)


def _run(seed, is_lie, path, whole, right, model) -> str:
    rng = random.Random(seed)
    path.write_bytes(whole)
    if is_lie:
        done = lie(rng, path, KIND)
    else:
        done, content = damage_bytes(rng, whole)
        if content == whole:
            return "right"
        path.write_bytes(content)
    try:
        cache = nexusquant.load_cache(path, model)
    except CacheStateError as error:
        assert str(error).endswith((".", ". ")), error
        return "refused"
    answer = _answer(model, cache)
    assert is_lie or torch.equal(answer, right), f"{done}: other contents were opened"
    assert answer.shape == right.shape, done
    assert cache.usage().stored_bytes > 0, done
    return "right"


def _answer(model, cache) -> torch.Tensor:
    with torch.no_grad():
        return model(QUESTION, past_key_values=cache).logits
