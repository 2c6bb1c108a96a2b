"""Gathers what a profile is made of: keys before their rotation, and what errors in them cost.

Knows sums over tokens. Must not know where keys and gradients come from.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from nexusquant.cache.profile import ModelProfile, compressible_layers
from nexusquant.cache.rotary import find_pairings, rotary_of
from nexusquant.errors import UnsupportedModelError
from nexusquant.lattice import KeyBasis, fit_key_basis

# first tokens of a text: exact in every cache, and unlike all other keys
_NUM_SINKS = 4


class _KeyStatistics:
    """Sums over the tokens of one layer, in float64: means may be far larger than deviations."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.outer = self.cost = torch.zeros(())

    def add(self, keys: torch.Tensor, gradients: torch.Tensor) -> None:
        keys, gradients = keys.double(), gradients.double()
        self.count += keys.shape[1]
        self.total = self.total + keys.sum(dim=1)
        self.outer = self.outer + keys.mT @ keys
        self.cost = self.cost + gradients.mT @ gradients

    def fit(self) -> KeyBasis:
        mean = self.total / self.count
        covariance = self.outer / self.count - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        basis = fit_key_basis(mean, covariance, self.cost / self.count)
        # where a profile from a file is too: coders are made of it, and nothing else
        return KeyBasis(*(part.cpu() for part in basis))


class ProfileBuilder:
    """Collects keys and gradients of texts read from their first token on.

    Args:
        model: The model; read twice over a few tokens to see how it rotates keys.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._pairings = model, find_pairings(model)
        self._layers = {index: _KeyStatistics() for index in compressible_layers(model)}

    def add(self, layer: int, keys: torch.Tensor, gradients: torch.Tensor | None) -> None:
        """Take the keys of a whole text and the loss's gradients by them.

        Args:
            layer: Index of the layer.
            keys: As the layer caches them. [1, H_kv, T, D].
            gradients: The same shape; None where nothing flows back to these keys.

        Raises:
            UnsupportedModelError: There are no gradients: quantized weights may not pass them on.
        """
        if gradients is None:
            raise UnsupportedModelError("No gradients flow to the keys of this model.")
        if layer in self._layers:
            self._layers[layer].add(self._bare(layer, keys), self._bare(layer, gradients))

    def build(self) -> ModelProfile:
        """Fit a basis for every layer; what was collected is gone afterwards.

        Raises:
            UnsupportedModelError: Keys or gradients were not finite.
        """
        # the watching function stays registered with transformers, and this builder with it
        layers, self._layers = self._layers, {}
        bases = tuple(
            layers[index].fit() if index in layers else None for index in range(len(self._pairings))
        )
        if any(basis is not None and not basis.rows.isfinite().all() for basis in bases):
            raise UnsupportedModelError("Keys or gradients of this model are not finite numbers.")
        return ModelProfile(self._pairings, bases)

    def _bare(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        # gradients turn like keys; the factor that may be on both is the same for all layers
        keys = keys[0, :, _NUM_SINKS:].float()
        # asked anew: frequencies may depend on the length of what was read
        rotary = rotary_of(self._model)
        if rotary is None:
            return keys
        positions = torch.arange(_NUM_SINKS, _NUM_SINKS + keys.shape[1], device=keys.device)
        return rotary.take_off(keys, positions, self._pairings[layer])
