"""A small model's folder that loads. Knows the files of one, and nothing of ours."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def write_model(folder: Path, **sizes: object) -> None:
    """Write a Llama of two layers with random weights and a tokenizer of single bytes.

    Args:
        folder: Where to; made if it is missing.
        sizes: Entries of the config that are to be otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    marks = ("<|im_start|>", "<|im_end|>")
    tokens.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=marks[1]).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    torch.manual_seed(0)
    config = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 257,
    }
    LlamaForCausalLM(LlamaConfig(**config | sizes)).save_pretrained(folder)
