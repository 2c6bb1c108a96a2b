"""Tiny models on disk whose tokenizer reads single bytes, with the control tokens of a family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "chatml": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama2": ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
    "gemma4": ("<|turn>", "<turn|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    "phi": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "cohere": ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"),
    "code": ("<repo_name>", "<file_sep>", "<fim_prefix>", "<fim_suffix>"),
    "glm": ("[gMASK]", "<sop>", "<|observation|>"),
}
"""Special tokens by family; every tokenizer here has `TURN_MARKS` as well."""

ADDED = ("<tool_call>", "</tool_call>", "<tool_response>")
"""Added tokens that no tokenizer marks as special."""


def byte_tokenizer(
    special: Sequence[str] = (), added: Sequence[str] = (), template: object = CHATML, end: str = ""
) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes.

    Args:
        special: Special tokens besides `TURN_MARKS`.
        added: Added tokens that are not marked special.
        template: Its chat template, or several by name.
        end: The token that its configuration calls the end; empty: `<|im_end|>`.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    names = dict.fromkeys((*TURN_MARKS, *special))
    tokens.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    tokens.add_tokens([AddedToken(n, special=False, normalized=False) for n in added])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=end or "<|im_end|>")
    fast.chat_template = template
    return fast


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a model of two layers with random weights for `tokenizer`, and the tokenizer."""
    template = tokenizer.chat_template
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = template
    named = template if isinstance(template, dict) else {"default": template}
    path = folder / "tokenizer_config.json"
    data = json.loads(path.read_text())
    data["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
    path.write_text(json.dumps(data))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=8192,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
