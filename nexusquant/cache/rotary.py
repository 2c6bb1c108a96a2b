"""How a model rotates its keys. Knows models; what a rotation is, `lattice` knows.

Frequencies are the model's own; which coordinates form a pair is found out by trying.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from nexusquant.cache import hf_compat, hf_rope
from nexusquant.lattice import Pairing, Rotary, RotarySegment

# of identical tokens at other positions, in narrow types; a wrong pairing is off by about 1
_TOLERANCE = 0.2
_PROBE_TOKENS, _PROBE_SHIFT = 8, 37


def rotary_of(model: PreTrainedModel) -> Rotary | None:
    """The rotation of a model's full-attention layers as it is now; None without one."""
    found = hf_rope.rope_frequencies(model)
    if found is None:
        return None
    return Rotary([RotarySegment(0, found[0].to(model.device))], found[1])


def find_pairings(model: PreTrainedModel) -> tuple[Pairing, ...]:
    """Find out how each layer rotates its keys: the same tokens are read at two positions.

    Args:
        model: The model; read twice over a few tokens.
    """
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if rotary_of(model) is None:
        return (Pairing.NONE,) * num_layers
    token_ids = torch.arange(1, 1 + _PROBE_TOKENS, device=model.device)
    try:
        here = hf_compat.keys_at(model, token_ids, 0)
        there = hf_compat.keys_at(model, token_ids, _PROBE_SHIFT)
    except TypeError:
        return (Pairing.NONE,) * num_layers
    # only now: frequencies that depend on the length are those of what was read last
    rotary = rotary_of(model)
    return tuple(
        _pairing_between(one.float(), other.float(), rotary)
        for one, other in zip(here, there, strict=True)
    )


def _pairing_between(here: torch.Tensor, there: torch.Tensor, rotary: Rotary) -> Pairing:
    # what all keys share may be far larger than they, and in narrow types hide how they turn
    here, there = (keys - keys.mean(dim=1, keepdim=True) for keys in (here, there))
    positions = torch.zeros(here.shape[1], dtype=torch.int64, device=here.device)
    if 2 * rotary.segments[0].frequencies.shape[0] > here.shape[-1]:
        return Pairing.NONE

    def misfit(pairing: Pairing) -> float:
        bare = rotary.take_off(here, positions, pairing)
        other = rotary.take_off(there, positions + _PROBE_SHIFT, pairing)
        return float((bare - other).norm() / bare.norm().clamp(min=1e-30))

    best = min((Pairing.NONE, Pairing.HALVES, Pairing.NEIGHBOURS), key=misfit)
    return best if misfit(best) < _TOLERANCE else Pairing.NONE
