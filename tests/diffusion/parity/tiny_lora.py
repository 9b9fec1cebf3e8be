"""Small LoRAs in the conventions found in the wild, key names spelled out. Knows no framework."""

from typing import Any

import numpy as np

from tests.diffusion.parity.seeded_weights import seeded_tensor

RANK = 4
SCALE = 0.7
_SD_ATTENTION = "attentions.{}.transformer_blocks.0"

# (module, inputs, outputs, kernel) under diffusers' names.
SD15_UNET: tuple[tuple[str, int, int, int], ...] = (
    (f"down_blocks.0.{_SD_ATTENTION.format(0)}.attn1.to_q", 32, 32, 0),
    (f"down_blocks.0.{_SD_ATTENTION.format(1)}.attn2.to_k", 32, 32, 0),
    (f"down_blocks.1.{_SD_ATTENTION.format(1)}.ff.net.0.proj", 64, 512, 0),
    (f"up_blocks.2.{_SD_ATTENTION.format(2)}.attn1.to_out.0", 32, 32, 0),
    (f"mid_block.{_SD_ATTENTION.format(0)}.attn2.to_v", 32, 64, 0),
    ("mid_block.attentions.0.proj_in", 64, 64, 1),
    ("down_blocks.0.resnets.0.conv1", 32, 32, 3),
    ("up_blocks.1.resnets.1.conv_shortcut", 128, 64, 1),
    ("down_blocks.1.downsamplers.0.conv", 64, 64, 3),
    ("up_blocks.1.resnets.0.time_emb_proj", 128, 64, 0),
)
SD15_TEXT: tuple[tuple[str, int, int, int], ...] = (
    ("text_model.encoder.layers.1.self_attn.q_proj", 32, 32, 0),
    ("text_model.encoder.layers.2.mlp.fc1", 32, 64, 0),
)
# kohya's SDXL trainer names the UNet as latent-diffusion code does.
SDXL_UNET_LDM: tuple[tuple[str, int, int, int], ...] = (
    ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", 64, 64, 0),
    ("input_blocks_8_1_transformer_blocks_1_attn2_to_k", 80, 64, 0),
    ("input_blocks_5_1_proj_in", 64, 64, 0),
    ("middle_block_1_transformer_blocks_1_ff_net_2", 256, 64, 0),
    ("output_blocks_0_1_transformer_blocks_0_attn1_to_out_0", 64, 64, 0),
    ("output_blocks_5_1_transformer_blocks_0_attn2_to_v", 80, 64, 0),
)
# More of the same naming, which diffusers itself cannot read: checked against our own diffusers names.
SDXL_UNET_LDM_MORE: tuple[tuple[str, str, int, int, int], ...] = (
    ("input_blocks_0_0", "conv_in", 4, 32, 3),
    ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1", 32, 32, 3),
    ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv", 32, 32, 3),
    ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut", 32, 64, 1),
    ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2", 64, 64, 3),
    ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv", 64, 64, 3),
    ("output_blocks_8_0_emb_layers_1", "up_blocks.2.resnets.2.time_emb_proj", 128, 32, 0),
    ("time_embed_2", "time_embedding.linear_2", 128, 128, 0),
    ("label_emb_0_0", "add_embedding.linear_1", 80, 128, 0),
    ("out_2", "conv_out", 32, 4, 3),
)
SDXL_TEXT = {
    "lora_te1": (("text_model_encoder_layers_0_self_attn_v_proj", 32, 32, 0),),
    "lora_te2": (("text_model_encoder_layers_1_mlp_fc2", 64, 48, 0),),
}
FLUX_DIFFUSERS: tuple[tuple[str, int, int, int], ...] = (
    ("transformer_blocks.0.attn.to_q", 128, 128, 0),
    ("transformer_blocks.1.attn.add_k_proj", 128, 128, 0),
    ("transformer_blocks.1.attn.to_out.0", 128, 128, 0),
    ("transformer_blocks.0.ff.net.0.proj", 128, 512, 0),
    ("transformer_blocks.0.norm1.linear", 128, 768, 0),
    ("single_transformer_blocks.1.proj_out", 640, 128, 0),
    ("single_transformer_blocks.0.attn.to_v", 128, 128, 0),
    ("x_embedder", 64, 128, 0),
)
FLUX_KOHYA: tuple[tuple[str, int, int, int], ...] = (
    ("double_blocks_0_img_attn_qkv", 128, 384, 0),
    ("double_blocks_1_txt_attn_qkv", 128, 384, 0),
    ("double_blocks_0_txt_attn_proj", 128, 128, 0),
    ("double_blocks_1_img_mlp_0", 128, 512, 0),
    ("double_blocks_1_txt_mlp_2", 512, 128, 0),
    ("double_blocks_0_img_mod_lin", 128, 768, 0),
    ("single_blocks_0_linear1", 128, 896, 0),
    ("single_blocks_1_linear2", 640, 128, 0),
    ("single_blocks_1_modulation_lin", 128, 384, 0),
)
FLUX_TEXT = (("text_model_encoder_layers_0_mlp_fc1", 128, 256, 0),)
FLUX_XLABS: tuple[tuple[str, int, int, int], ...] = (
    ("double_blocks.0.processor.qkv_lora1", 128, 384, 0),
    ("double_blocks.1.processor.proj_lora1", 128, 128, 0),
    ("double_blocks.1.processor.qkv_lora2", 128, 384, 0),
    ("double_blocks.0.processor.proj_lora2", 128, 128, 0),
)

KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
PEFT = {"down": "lora_A.weight", "up": "lora_B.weight"}
OLD_DIFFUSERS = {"down": "lora.down.weight", "up": "lora.up.weight"}
XLABS = {"down": "down.weight", "up": "up.weight"}


def pairs(
    modules: Any, *, prefix: str, style: dict[str, str], alpha: float | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a LoRA, of norm-keeping size; alpha is half or twice the rank unless given."""
    result = {}
    for name, inputs, outputs, kernel in modules:
        kernels = (kernel, kernel) if kernel else ()
        ones = (1, 1) if kernel else ()
        result[f"{prefix}{name}.{style['down']}"] = seeded_tensor(f"{name}.down", (RANK, inputs, *kernels))
        result[f"{prefix}{name}.{style['up']}"] = seeded_tensor(f"{name}.up", (outputs, RANK, *ones))
        if "alpha" in style:
            result[f"{prefix}{name}.{style['alpha']}"] = np.float32(
                (RANK * (0.5 if len(name) % 2 else 2.0)) if alpha is None else alpha
            )
    return result


def underscored(modules: Any) -> list[tuple[str, int, int, int]]:
    return [(name.replace(".", "_"), *rest) for name, *rest in modules]


# name -> (model, tensors)
CASES: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "sd15_peft": (
        "sd15",
        pairs(SD15_UNET, prefix="unet.", style=PEFT) | pairs(SD15_TEXT, prefix="text_encoder.", style=PEFT),
    ),
    "sd15_kohya": (
        "sd15",
        pairs(underscored(SD15_UNET), prefix="lora_unet_", style=KOHYA)
        | pairs(underscored(SD15_TEXT), prefix="lora_te_", style=KOHYA),
    ),
    "sdxl_kohya": (
        "sdxl",
        # One alpha: diffusers loses differing ones when it renames these.
        pairs(SDXL_UNET_LDM, prefix="lora_unet_", style=KOHYA, alpha=3.0)
        | {
            k: v
            for te, m in SDXL_TEXT.items()
            for k, v in pairs(m, prefix=f"{te}_", style=KOHYA, alpha=3.0).items()
        },
    ),
    "flux_peft": ("flux", pairs(FLUX_DIFFUSERS, prefix="transformer.", style=PEFT)),
    "flux_kohya": (
        "flux",
        pairs(FLUX_KOHYA, prefix="lora_unet_", style=KOHYA)
        | pairs(FLUX_TEXT, prefix="lora_te1_", style=KOHYA),
    ),
    "flux_xlabs": ("flux", pairs(FLUX_XLABS, prefix="", style=XLABS)),
}


def inputs(model: str) -> dict[str, np.ndarray]:
    """What the denoiser is called with."""
    rng = np.random.default_rng(29)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    if model == "flux":
        return {"tokens": normal(1, 12, 64), "text": normal(1, 8, 64), "pooled": normal(1, 128)}
    context = {"sd15": 32, "sdxl": 80}[model]
    given = {"sample": normal(1, 8, 8, 4), "context": normal(1, 77, context)}
    if model == "sdxl":
        given |= {"text_embeds": normal(1, 32), "time_ids": np.array([[64, 64, 0, 0, 64, 64]], np.float32)}
    return given
