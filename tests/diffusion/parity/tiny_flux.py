"""A FLUX.1 small enough for tests: its configs, tokenizers, prompts and runs. Knows no framework."""

import json
import shutil
from pathlib import Path
from typing import Any

REFERENCES = Path(__file__).parent / "references"
SPIECE = REFERENCES / "tiny_spiece.model"

# Widths are multiples of 64, so that every linear map and table can be packed in groups of 64.
CLIP: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "projection_dim": 128,
}
T5: dict[str, Any] = {
    "vocab_size": 576,
    "d_model": 64,
    "d_kv": 2,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
TRANSFORMER: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 128,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 28, 28),
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
DEV = {"guidance_embeds": True}
DEV_SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True}

SHORT = "a photo of a cat"
FOREIGN = "Café  déjà-vu 日本 🐈 it's 8K!! ﬁne e\u0301 привет"
LONG = " ".join(["a bright red ship on the river"] * 60)

# name -> what the recorded run was asked for
RUNS: dict[str, dict[str, Any]] = {
    "schnell_1": {"dev": False, "prompt": [SHORT], "size": (64, 64), "steps": 1, "length": 256},
    "schnell_4_odd": {"dev": False, "prompt": [FOREIGN], "size": (112, 80), "steps": 4, "length": 256},
    "schnell_2_batch": {"dev": False, "prompt": [LONG, FOREIGN], "size": (48, 64), "steps": 2, "length": 64},
    "dev_6_odd": {"dev": True, "prompt": [FOREIGN], "size": (80, 112), "steps": 6, "length": 512,
                  "guidance_scale": 3.5},
    "dev_3_batch": {"dev": True, "prompt": [SHORT, LONG], "size": (64, 48), "steps": 3, "length": 128,
                    "guidance_scale": 7.0},
}  # fmt: skip
NOISE_SEED = 11


def clip_vocabulary() -> dict[str, int]:
    """Bytes, bytes that end a word, and CLIP's two special tokens; no merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(extra))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


def write_clip_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt with two merges."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")
    special = dict.fromkeys(("pad_token", "eos_token", "unk_token"), "<|endoftext|>")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
    } | special
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_t5_tokenizer(folder: Path) -> None:
    """spiece.model alone, as old mflux folders have it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SPIECE, folder / "spiece.model")
