"""Text encoders in the names of llama.cpp, which GGUF files use: their tensors as transformers', lazily."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, rename

_T5_ATTENTION, _T5_FEED_FORWARD = r"encoder.block.\1.layer.0.", r"encoder.block.\1.layer.1."
_T5_RULES: tuple[Rule, ...] = (
    (r"^(dec\.|output\.)", None),
    (r"^enc\.blk\.[1-9]\d*\.attn_rel_b\.", None),  # the first block's table is that of all
    (r"^token_embd\.", "shared."),
    (r"^enc\.output_norm\.", "encoder.final_layer_norm."),
    (r"^enc\.blk\.(\d+)\.attn_norm\.", f"{_T5_ATTENTION}layer_norm."),
    (r"^enc\.blk\.(\d+)\.attn_rel_b\.", f"{_T5_ATTENTION}SelfAttention.relative_attention_bias."),
    (r"^enc\.blk\.(\d+)\.attn_([qkvo])\.", rf"{_T5_ATTENTION}SelfAttention.\2."),
    (r"^enc\.blk\.(\d+)\.ffn_norm\.", f"{_T5_FEED_FORWARD}layer_norm."),
    (r"^enc\.blk\.(\d+)\.ffn_gate\.", f"{_T5_FEED_FORWARD}DenseReluDense.wi_0."),
    (r"^enc\.blk\.(\d+)\.ffn_up\.", f"{_T5_FEED_FORWARD}DenseReluDense.wi_1."),
    (r"^enc\.blk\.(\d+)\.ffn_down\.", f"{_T5_FEED_FORWARD}DenseReluDense.wo."),
)
_QWEN3_RULES: tuple[Rule, ...] = (
    (r"^(output|output_norm|rope_freqs)\.", None),  # of the language model's head
    (r"^token_embd\.", "embed_tokens."),
    (r"^blk\.(\d+)\.attn_norm\.", r"layers.\1.input_layernorm."),
    (r"^blk\.(\d+)\.ffn_norm\.", r"layers.\1.post_attention_layernorm."),
    (r"^blk\.(\d+)\.attn_output\.", r"layers.\1.self_attn.o_proj."),
    (r"^blk\.(\d+)\.attn_([qk])_norm\.", r"layers.\1.self_attn.\2_norm."),
    (r"^blk\.(\d+)\.attn_([qkv])\.", r"layers.\1.self_attn.\2_proj."),
    (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"layers.\1.mlp.\2_proj."),
)


def convert_llama_t5(tensors: Mapping[str, mx.array]) -> Tensors:
    """The encoder of T5; a decoder in the file is left out."""
    return rename(tensors, _T5_RULES)


def convert_llama_qwen3(tensors: Mapping[str, mx.array]) -> Tensors:
    """Qwen3; its rows need no other order, as those of Llama do."""
    return rename(tensors, _QWEN3_RULES)
