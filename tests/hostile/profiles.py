"""Hostile files of profiles: damaged, and lying with right checksums.

Each must be refused with a sentence (it is then measured again), or be one that a cache can use.
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
from nexusquant import CacheStateError
from nexusquant.cache import load_profile, save_profile
from nexusquant.config import PRESETS

KIND = "nexusquant_profile"
DOCUMENT, QUESTION = tiny_models.token_ids(150), tiny_models.token_ids(12, seed=3)


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """So many hostile files.

    Args:
        rng: The one source of chance.
        count: How many.
        folder: Where files may be written.
    """
    model = tiny_models.llama()
    profile = nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256, seed=7))
    path = folder / "model.profile"
    save_profile(profile, path)
    whole = path.read_bytes()
    for number in range(count):
        seed, is_lie = rng.getrandbits(64), rng.random() < 0.6
        run = functools.partial(_run, seed, is_lie, path, whole, model)
        yield Attempt(f"{number}: {'lie' if is_lie else 'damage'} of seed {seed}", run)


def _run(seed, is_lie, path, whole, model) -> str:
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
        profile = load_profile(path, model)
    except CacheStateError as error:
        assert "no profile that can be read" in str(error), error
        return "refused"
    assert is_lie, f"{done}: a damaged profile was opened"
    cache = nexusquant.prefill(model, DOCUMENT, PRESETS["safe"], profile=profile)
    with torch.no_grad():
        assert model(QUESTION, past_key_values=cache).logits.shape[1] == 12
    return "right"
