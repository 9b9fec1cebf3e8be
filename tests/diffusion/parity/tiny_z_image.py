"""A Z-Image small enough for tests: its configs, tokenizer, prompts and runs. Knows no framework."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.diffusion.parity.tiny_flux import VAE

REFERENCES = Path(__file__).parent / "references"

# Widths are multiples of 64, so that every linear map and table can be packed in groups of 64; heads are cut
# into rotary axes in the published proportions.
TRANSFORMER: dict[str, Any] = {
    "all_patch_size": (2,),
    "all_f_patch_size": (1,),
    "in_channels": 16,
    "dim": 192,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 3,
    "n_kv_heads": 3,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": 64,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
    "axes_dims": (16, 24, 24),
    "axes_lens": (1536, 64, 64),
}
QWEN: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": False}
__all__ = ["VAE"]

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
MERGES = ("Ġ c", "a t", "Ġc at", "h e", "Ġ r", "i n", "Ġ a", "i p", "r e", "Ġr i", "s h")

SHORT = "a photo of a cat"
FOREIGN = "Café  déjà-vu 日本 🐈 it's 8K!!\n\n ﬁne e\u0301 привет <|im_end|> 12345"
LONG = " ".join(["a bright red ship on the river"] * 60)

# name -> what the recorded run was asked for
RUNS: dict[str, dict[str, Any]] = {
    "turbo_1": {"prompt": [SHORT], "size": (64, 64), "steps": 1},
    "turbo_3_odd": {"prompt": [FOREIGN], "size": (112, 80), "steps": 3},
    "turbo_8_long": {"prompt": [LONG], "size": (64, 48), "steps": 8},
    "batch_3": {"prompt": [LONG, FOREIGN, ""], "size": (48, 64), "steps": 3, "length": 90},
    "guided_3": {"prompt": [SHORT], "size": (80, 64), "steps": 3, "guidance_scale": 4.0,
                 "negative_prompt": [FOREIGN]},
    "guided_2_batch": {"prompt": [SHORT, FOREIGN], "size": (64, 64), "steps": 2, "guidance_scale": 0.7},
    "image_5": {"prompt": [SHORT], "size": (64, 80), "steps": 5, "strength": 0.5, "image": True},
    "image_3": {"prompt": [FOREIGN], "size": (64, 64), "steps": 3, "strength": 0.7, "image": True,
                "guidance_scale": 2.0},
    "mask_4": {"prompt": [SHORT], "size": (64, 80), "steps": 4, "strength": 0.7, "image": True, "mask": True},
    "mask_3_full": {"prompt": [SHORT], "size": (64, 64), "steps": 3, "strength": 1.0, "image": True,
                    "mask": True},
}  # fmt: skip
NOISE_SEED = 11


def start_noise(run: dict[str, Any]) -> np.ndarray:
    """Unit-normal latents [B, h, w, 16]."""
    width, height = run["size"]
    rng = np.random.default_rng(NOISE_SEED)
    return rng.standard_normal((len(run["prompt"]), height // 8, width // 8, 16), dtype=np.float32)


def init_pixels(run: dict[str, Any]) -> np.ndarray:
    """The image to start from, [H, W, 3], uint8."""
    width, height = run["size"]
    return np.random.default_rng(NOISE_SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)


def latent_mask(run: dict[str, Any]) -> np.ndarray:
    """1 where to paint, [h, w, 1]."""
    width, height = run["size"]
    mask = np.zeros((height // 8, width // 8, 1), np.float32)
    mask[2:6, 1:5] = 1
    return mask


def vocabulary() -> dict[str, int]:
    """Special tokens, bytes as byte-level BPE writes them, and what the merges make."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(extra))]
    tokens = [*letters, *(merge.replace(" ", "") for merge in MERGES)]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, as transformers 4 saves a Qwen2Tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    words = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *MERGES, "")), encoding="utf-8")
    added = {
        str(len(words) + i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                              "single_word": False, "special": True}
        for i, token in enumerate(SPECIAL)
    }  # fmt: skip
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "chat_template": TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
