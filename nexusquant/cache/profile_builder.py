"""Gathers what a profile is made of: keys before their rotation, and what errors cost.

Knows sums over tokens. Must not know where keys, values and gradients come from.
"""

from __future__ import annotations

from math import isfinite

import torch
from transformers import PreTrainedModel

from nexusquant.cache.profile import ModelProfile, compressible_layers
from nexusquant.cache.rotary import find_pairings, rotary_of
from nexusquant.errors import UnsupportedModelError
from nexusquant.lattice import KeyBasis, fit_key_basis

# first tokens of a text: exact in every cache, and unlike all other keys
_NUM_SINKS = 4
NUM_NEAR = 16
"""Newest tokens whose costs are left out: what neighbours ask of one another would drown what is
looked up far away."""


class _LayerStatistics:
    """Sums over the tokens of one layer, in float64: means may be far larger than deviations."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.outer = self.key_cost = torch.zeros(())
        self.value_cost = 0.0

    def add_keys(self, keys: torch.Tensor) -> None:
        keys = keys.double()
        self.count += keys.shape[1]
        self.total = self.total + keys.sum(dim=1)
        self.outer = self.outer + keys.mT @ keys

    def add_key_gradients(self, gradients: torch.Tensor) -> None:
        gradients = gradients.double()
        self.key_cost = self.key_cost + gradients.mT @ gradients

    def add_values(self, values: torch.Tensor, gradients: torch.Tensor) -> None:
        # an error points anywhere, and is as large as its value is
        squares = (values.double().square().sum(dim=-1), gradients.double().square().sum(dim=-1))
        self.value_cost += float((squares[0] * squares[1]).sum(dim=-1).mean()) / values.shape[-1]

    def fit(self) -> KeyBasis:
        mean = self.total / self.count
        covariance = self.outer / self.count - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        basis = fit_key_basis(mean, covariance, self.key_cost)
        # where a profile from a file is too: coders are made of it, and nothing else
        return KeyBasis(*(part.cpu() for part in basis))


class ProfileBuilder:
    """Collects keys, values and gradients of texts read from their first token on.

    Args:
        model: The model; read twice over a few tokens to see how it rotates keys.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._pairings = model, find_pairings(model)
        self._layers = {index: _LayerStatistics() for index in compressible_layers(model)}

    def add_keys(self, layer: int, keys: torch.Tensor, gradients: torch.Tensor) -> None:
        """Take the keys of a whole text, and what errors in the first of them cost later tokens.

        Args:
            layer: Index of the layer.
            keys: As the layer caches them. [1, H_kv, T, D].
            gradients: Of the loss of later tokens, by the first keys. [1, H_kv, P, D].
        """
        if layer in self._layers:
            self._layers[layer].add_keys(self._bare(layer, keys))
            far = gradients[:, :, : gradients.shape[2] - NUM_NEAR]
            self._layers[layer].add_key_gradients(self._bare(layer, far))

    def add_values(self, layer: int, values: torch.Tensor, gradients: torch.Tensor) -> None:
        """Take the values of a whole text and the gradients by the first of them; as `add_keys`."""
        if layer in self._layers:
            far = slice(_NUM_SINKS, gradients.shape[2] - NUM_NEAR)
            self._layers[layer].add_values(values[0, :, far], gradients[0, :, far])

    def build(self) -> ModelProfile:
        """Fit a basis for every layer; what was collected is gone afterwards.

        Raises:
            UnsupportedModelError: There were no gradients (quantized weights may not pass them on),
                or keys or gradients were not finite.
        """
        # the watching function stays registered with transformers, and this builder with it
        layers, self._layers = self._layers, {}
        if not all(of_layer.count for of_layer in layers.values()):
            raise UnsupportedModelError("No gradients flow to the keys of this model.")
        found = [layers.get(index) for index in range(len(self._pairings))]
        bases = tuple(of_layer and of_layer.fit() for of_layer in found)
        costs = tuple(None if of_layer is None else of_layer.value_cost for of_layer in found)
        if any(basis is not None and not basis.rows.isfinite().all() for basis in bases) or any(
            not isfinite(cost or 0.0) for cost in costs
        ):
            raise UnsupportedModelError("Keys or gradients of this model are not finite numbers.")
        return ModelProfile(self._pairings, bases, costs)

    def _bare(self, layer: int, keys: torch.Tensor) -> torch.Tensor:
        # gradients turn like keys; the factor that may be on both is the same for all layers
        keys = keys[0, :, _NUM_SINKS:].float()
        # asked anew: frequencies may depend on the length of what was read
        rotary = rotary_of(self._model)
        if rotary is None:
            return keys
        positions = torch.arange(_NUM_SINKS, _NUM_SINKS + keys.shape[1], device=keys.device)
        return rotary.take_off(keys, positions, self._pairings[layer])
