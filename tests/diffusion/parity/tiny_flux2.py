"""A FLUX.2 klein small enough for tests: its configs, tokenizer, pictures and runs. Knows no framework."""

import json
from pathlib import Path
from typing import Any

import numpy as np

REFERENCES = Path(__file__).parent / "references"

QWEN: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 1000000.0,
}
LAYERS = (1, 2, 3)
TRANSFORMER: dict[str, Any] = {
    "in_channels": 128,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 192,
    "axes_dims_rope": (8, 8, 8, 8),
    "guidance_embeds": False,
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "latent_channels": 32,
    "norm_num_groups": 32,
}
SMALL_DECODER = {"decoder_block_out_channels": (32, 32, 32, 32)}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True}

FOX, SCARF = "a red fox", "put a red scarf on it"
FOREIGN = "Café  déjà-vu 日本 🐈 it's 8K!!"
LONG = " ".join(["a bright red ship on the river"] * 60)

# name -> what the recorded run was asked for; references are sizes (width, height) of `picture`s.
RUNS: dict[str, dict[str, Any]] = {
    "text_1": {"prompt": [FOX], "size": (64, 64), "steps": 1},
    "text_4_odd": {"prompt": [FOREIGN], "size": (112, 80), "steps": 4},
    "batch_2": {"prompt": [LONG, FOX], "size": (64, 48), "steps": 2, "length": 128},
    "one_reference": {"prompt": [SCARF], "size": (64, 80), "steps": 4, "references": [(96, 64)]},
    "two_references": {"prompt": [SCARF, FOX], "size": (64, 64), "steps": 2, "references": [(64, 64), (80, 112)]},
    "base_guided": {"prompt": [FOX, SCARF], "size": (64, 64), "steps": 3, "guidance_scale": 4.0,
                    "references": [(64, 96)]},
    "inpaint_full": {"prompt": [FOX], "size": (64, 80), "steps": 3, "strength": 1.0},
    "inpaint_part": {"prompt": [FOX], "size": (80, 64), "steps": 4, "strength": 0.6, "references": [(96, 64)]},
}  # fmt: skip
NOISE_SEED = 7


def is_base(run: dict[str, Any]) -> bool:
    return "guidance_scale" in run


def noise(run: dict[str, Any]) -> np.ndarray:
    """Start noise [B, h, w, 128] of a run."""
    width, height = run["size"]
    rng = np.random.default_rng(NOISE_SEED)
    return rng.standard_normal((len(run["prompt"]), height // 16, width // 16, 128), dtype=np.float32)


def picture(size: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """A smooth colored picture [H, W, 3], uint8."""
    width, height = size
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0:height, 0:width] / 16
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(0.2, 2.0, (3, 3))]
    return np.round(np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def mask(size: tuple[int, int]) -> np.ndarray:
    """1 where to paint, [h, w, 1] in latents: the right half without its last row."""
    result = np.zeros((size[1] // 16, size[0] // 16, 1), dtype=np.float32)
    result[:-1, result.shape[1] // 2 :] = 1
    return result


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and its config: bytes, two merges and Qwen's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "re", "red"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("r", "e"), ("re", "d")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


VOCABULARY_SIZE = 320  # of the table; the tokenizer has fewer
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
