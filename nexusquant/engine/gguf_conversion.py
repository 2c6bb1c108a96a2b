"""Conversion of a small Llama GGUF file into an ordinary Hugging Face folder.

Knows the layout of both. Must not know where the file comes from or who loads the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


def convert_gguf(gguf: Path, folder: Path) -> Iterator[float]:
    """Write a folder that transformers loads: config, tokenizer, chat template, float16 weights.

    Args:
        gguf: A GGUF file of the Llama architecture with tied embeddings and the "smollm"
            pre-tokenizer.
        folder: Where to write; made if it is missing.

    Yields:
        How much is converted, in [0, 1].

    Raises:
        OSError: The folder cannot be written.
        safetensors.SafetensorError: The weights cannot be written.
    """
    yield 0.0
    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields)
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(folder)
    _tokenizer(fields).save_pretrained(folder)
    weights: dict[str, torch.Tensor] = {}
    for count, tensor in enumerate(reader.tensors, start=1):
        name = _weight_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type)
        weights[name] = _weight(name, values, fields["llama.rope.dimension_count"])
        if count % 30 == 0:
            yield count / len(reader.tensors)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(fields: Mapping[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        head_dim=fields["llama.rope.dimension_count"],
        max_position_embeddings=fields["llama.context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        # the file holds the nearest float32; the model's own config says 1e-05
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        # not in a GGUF: the file has no output matrix, so the embedding is used for both; the model
        # card's repository says the same (HuggingFaceTB/SmolLM2-135M-Instruct, config.json)
        tie_word_embeddings=True,
        hidden_act="silu",
        attention_bias=False,
        initializer_range=0.041666666666666664,
        dtype="float16",
    )


def _tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # what the GGUF calls the "smollm" pre-tokenizer: every digit alone, then GPT-2's rule. Leaving
    # the digits to GPT-2's rule changes the ids of blanks and line ends in front of numbers.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    return tokenizer


def _weight_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"
    return f"{_OUTER_NAMES[parts[0]]}.weight"


def _weight(name: str, values: Any, head_dim: int) -> torch.Tensor:
    """Store a matrix as transformers expects it, in float16.

    The quantized weights are a float16 scale times a small integer, plus a float16 offset:
    float16's longer mantissa keeps them several times closer than bfloat16, and none is near
    its largest number.
    """
    weight = torch.from_numpy(values.copy())
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        # GGUF has the two halves of a rotated pair side by side, transformers half a head apart
        pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])
        weight = pairs.transpose(1, 2).reshape(weight.shape)
    return weight.to(torch.float16).contiguous()
