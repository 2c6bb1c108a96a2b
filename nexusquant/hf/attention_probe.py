"""Whether a model's attention goes through transformers' interface, told without its weights.

Knows how transformers' models call a cache and an attention function. Must not know packed pages.

A list of model types would be out of date with the next release of transformers. So the model is
built on the "meta" device, where tensors have shapes but no numbers and take no memory, and two
tokens go through it. A cache and an attention function of ours stand in and note what it does.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# what an attention function may be handed besides queries, keys and values without the result
# depending on it: positions were applied before, the rest is bookkeeping
_HARMLESS_TENSORS = frozenset({"position_ids", "cache_position", "position_embeddings"})
_NUM_TOKENS = 2
_REMEMBERED = 128

_OWN_CODE = "{name} has attention code of its own that cannot read packed pages."


def causal_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that `AutoModelForCausalLM` makes of a config; None if there is none.

    Args:
        config: Of a model.
    """
    # some versions list several classes for one config; the first is what is made
    found = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, (tuple, list)) else found


def attention_problem(config: PreTrainedConfig, model_class: type | None = None) -> str | None:
    """Tell why another cache cannot stand in for transformers' own in a model.

    Takes 0.05 to 0.7 seconds for a config that was not asked about before. Nothing of the model's
    class, of `config` or of transformers' registries is changed.

    Args:
        config: Of the model, whose weights need not be there.
        model_class: Class of the model; None: what `AutoModelForCausalLM` makes of the config.

    Returns:
        A sentence, or None where nothing stands in the way.

    Raises:
        Exception: The model cannot be built or called with this config; of any type, since it
            comes out of the model's own code.
    """
    # what the answer does not depend on would only keep it from being found again
    text = config.to_json_string(use_diff=False)
    # a model that was loaded is asked about again when it is first used: the same question
    return _problem(_Question(text, type(config), model_class or causal_class(config), config))


@dataclass(frozen=True)
class _Question:
    """A config as a key: two of the same text and class get the same answer."""

    text: str
    config_class: type
    model_class: type | None
    config: PreTrainedConfig = field(compare=False, repr=False)


@lru_cache(maxsize=_REMEMBERED)
def _problem(question: _Question) -> str | None:
    model = _on_meta(question)
    name, notes = type(model).__name__, _Notes()
    with _registered(notes) as implementation:
        model.set_attn_implementation(implementation)
        if model.config._attn_implementation != implementation:
            return _OWN_CODE.format(name=name)
        num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
        cache = Cache(layers=[_Layer(notes, index) for index in range(num_layers)])
        try:
            _read_two_tokens(model, cache)
        except Exception:
            # a model that computes with keys itself fails on what stands in for them, each in a
            # way of its own; the note says so. Without a note, it is another fault
            if notes.complaint is None and not notes.touched:
                raise
    if notes.touched:
        return f"{name} computes with keys itself before its attention, which packed keys forbid."
    return notes.complaint or notes.about_layers(num_layers)


def _on_meta(question: _Question) -> PreTrainedModel:
    config = copy.deepcopy(question.config)
    # another one may need a package, or be ours
    config._attn_implementation = "eager"
    # weights that were quantized are laid out otherwise, but attend in the same way
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    # numbers of 16 bits are what experts' kernels take; making the model with them would change
    # torch's default type for all threads meanwhile
    with torch.device("meta"):
        if question.model_class is None:
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        else:
            model = question.model_class._from_config(config, dtype=torch.float32)
        return model.eval().to(torch.bfloat16)


class _AnswersScalars(TorchDispatchMode):
    """Where a model asks what number stands in a tensor without numbers, it is 1, or True."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.ones((), dtype=args[0].dtype, device="cpu").item()
        return func(*args, **(kwargs or {}))


def _read_two_tokens(model: PreTrainedModel, cache: Cache) -> None:
    with torch.no_grad(), torch.device("meta"), _AnswersScalars():
        ids = torch.ones((1, _NUM_TOKENS), dtype=torch.long)
        # given, so that no model looks at numbers in order to make them
        positions = torch.arange(_NUM_TOKENS).unsqueeze(0)
        try:
            model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
        except TypeError as error:
            if "position_ids" not in str(error):
                raise
            model(input_ids=ids, past_key_values=cache, use_cache=True)


@contextmanager
def _registered(notes: _Notes) -> Iterator[str]:
    """Register the attention function of `notes` under a name that nobody else has."""
    name = f"probe_{uuid.uuid4().hex}"
    AttentionInterface.register(name, notes.attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    try:
        yield name
    finally:
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


@dataclass
class _Notes:
    """What was seen while tokens went through a model."""

    complaint: str | None = None
    touched: bool = False
    cached: set[int] = field(default_factory=set)
    attended: set[int] = field(default_factory=set)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: _Keys | torch.Tensor,
        value: _Keys | torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        """Stand in for attention: note how it is called and return what has the right shape."""
        complaint = _complaint_about(module, query, key, attention_mask, options)
        self.complaint = self.complaint or complaint
        if isinstance(key, _Keys):
            self.attended.add(key.index)
        batch, heads, tokens, _ = query.shape
        size = value.width if isinstance(value, _Keys) else value.shape[-1]
        return query.new_empty((batch, tokens, heads, size)), None

    def about_layers(self, num_layers: int) -> str | None:
        """Complain of layers whose keys never came to the cache, or never were attended to."""
        missing = [i for i in range(num_layers) if i not in self.cached or i not in self.attended]
        if not missing:
            return None
        return (
            f"{len(missing)} of the {num_layers} layers of this model (the first is layer "
            f"{missing[0]}) do not attend to keys and values that a cache holds for them."
        )


def _complaint_about(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: _Keys | torch.Tensor,
    attention_mask: torch.Tensor | None,
    options: Mapping[str, object],
) -> str | None:
    if not getattr(module, "is_causal", True):
        return (
            "This model is an encoder: its tokens see those after them, so it cannot write a text "
            "word by word. Choose a model for text generation."
        )
    strange = [
        name
        for name, option in options.items()
        if isinstance(option, torch.Tensor) and name not in _HARMLESS_TENSORS
    ]
    if strange:
        return f"This model's attention uses {strange[0]}, which packed pages do not have."
    if attention_mask is not None and isinstance(key, _Keys):
        return (
            "This model makes masks of its own for a text without gaps, and packed pages are "
            "attended to without any."
        )
    num_kv_heads = key.num_heads if isinstance(key, _Keys) else key.shape[1]
    if query.shape[1] % num_kv_heads:
        return (
            f"{query.shape[1]} heads of queries (num_attention_heads) cannot share {num_kv_heads} "
            "heads of keys (num_key_value_heads) evenly."
        )
    return None


class _Layer(DynamicLayer):
    """A cache layer that hands out `_Keys` instead of tensors."""

    def __init__(self, notes: _Notes, index: int) -> None:
        super().__init__()
        self._notes, self._index = notes, index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **options: object
    ) -> tuple[_Keys, _Keys]:
        """Keep the shapes; the numbers do not exist."""
        self._notes.cached.add(self._index)
        super().update(key_states, value_states, *args, **options)
        return (
            _Keys(self._notes, self._index, key_states),
            _Keys(self._notes, self._index, value_states),
        )


class _Keys:
    """What stands in for keys or values: nothing can be computed with it."""

    __slots__ = ("_notes", "index", "num_heads", "width")

    def __init__(self, notes: _Notes, index: int, states: torch.Tensor) -> None:
        self._notes, self.index = notes, index
        self.num_heads, self.width = states.shape[1], states.shape[-1]

    def __getattr__(self, name: str) -> NoReturn:
        if not name.startswith("__"):
            self._notes.touched = True
        raise AttributeError(name)

    def _refuse(self, *others: object) -> NoReturn:
        self._notes.touched = True
        raise TypeError("keys that are not there were computed with")

    # Python looks for operators in the class, and never asks __getattr__
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __pow__ = __rpow__ = __mod__ = _refuse
    __matmul__ = __rmatmul__ = __neg__ = __pos__ = __abs__ = __invert__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __xor__ = _refuse
    __getitem__ = __setitem__ = __iter__ = __len__ = __float__ = __int__ = _refuse

    @classmethod
    def __torch_function__(
        cls, function: object, types: object, args: tuple = (), kwargs: object = None
    ) -> NoReturn:
        for argument in args:
            for found in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(found, cls):
                    found._notes.touched = True
        raise TypeError(f"{function} was called with keys that are not there")
