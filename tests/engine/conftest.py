"""A tiny random model with a byte tokenizer: fast, and every text is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexusquant.engine import LoadedModel

END = 256


class ByteTokenizer:
    """One token is one UTF-8 byte; 256 ends an answer."""

    bos_token = None
    bos_token_id = None
    eos_token_id = END
    unk_token_id = None
    is_fast = False
    chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    special_tokens_map: Mapping[str, str] = MappingProxyType({})
    added_tokens_decoder: Mapping[int, str] = MappingProxyType({})
    all_special_ids: Sequence[int] = ()
    all_special_tokens: Sequence[str] = ()

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """Two layers, 4 query and 2 KV heads of 16 values, 1,024 tokens of context."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=END,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    return LoadedModel("tiny", model, ByteTokenizer(), 1024, frozenset({END}), torch.device("cpu"))
