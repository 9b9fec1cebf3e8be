"""Stable Diffusion models small enough for tests: configs, prompts and runs. Knows no framework."""

from typing import Any

import numpy as np

from tests.diffusion.parity.tiny_flux import clip_vocabulary

NOISE_SEED = 23
CHANNELS, VAE_SCALE = 4, 8

_TEXT: dict[str, Any] = {
    "vocab_size": len(clip_vocabulary()),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "projection_dim": 32,
}
_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "sample_size": 8,
}
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
VAE: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": CHANNELS,
    "norm_num_groups": 8,
    "scaling_factor": 0.18215,
}
_PNDM = {**_SCHEDULE, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False}

# A model: configs by folder, the pad token by tokenizer, and the pipeline's class.
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {
        "class": "StableDiffusionPipeline",
        "text_encoder": _TEXT,
        "pad": ("<|endoftext|>",),
        "unet": _UNET,
        "scheduler": _PNDM,
    },
    "sd21_v": {
        "class": "StableDiffusionPipeline",
        "text_encoder": {**_TEXT, "hidden_act": "gelu", "num_hidden_layers": 4},
        "pad": ("!",),
        "unet": {
            **_UNET,
            "attention_head_dim": (2, 4, 8),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "scheduler": {
            **_SCHEDULE,
            "_class_name": "DDIMScheduler",
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
        },
    },
    "sdxl": {
        "class": "StableDiffusionXLPipeline",
        "text_encoder": _TEXT,
        "text_encoder_2": {
            **_TEXT,
            "hidden_size": 48,
            "hidden_act": "gelu",
            "architectures": ["CLIPTextModelWithProjection"],
        },
        "pad": ("<|endoftext|>", "!"),
        "unet": {
            **_UNET,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 80,
            "attention_head_dim": (2, 4, 8),
            "transformer_layers_per_block": (1, 1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        },
        "vae": {"scaling_factor": 0.13025},
        "scheduler": {**_SCHEDULE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    },
    "sdxl_refiner": {
        "class": "StableDiffusionXLImg2ImgPipeline",
        "index": {
            "text_encoder": [None, None],
            "tokenizer": [None, None],
            "requires_aesthetics_score": True,
            "force_zeros_for_empty_prompt": False,
        },
        "text_encoder_2": {
            **_TEXT,
            "hidden_size": 48,
            "hidden_act": "gelu",
            "architectures": ["CLIPTextModelWithProjection"],
        },
        "pad": (None, "!"),
        "unet": {
            **_UNET,
            "block_out_channels": (32, 64, 64, 64),
            "down_block_types": (
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 48,
            "attention_head_dim": (2, 4, 4, 4),
            "transformer_layers_per_block": (1, 1, 1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 5 * 8 + 32,
        },
        "vae": {"scaling_factor": 0.13025},
        "scheduler": {**_SCHEDULE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    },
    "lcm": {
        "class": "LatentConsistencyModelPipeline",
        "text_encoder": _TEXT,
        "pad": ("<|endoftext|>",),
        "unet": {**_UNET, "time_cond_proj_dim": 24},
        "scheduler": {**_SCHEDULE, "_class_name": "LCMScheduler"},
    },
    "text_pooled": {
        "class": "StableDiffusionPipeline",
        "text_encoder": _TEXT,
        "pad": ("<|endoftext|>",),
        "unet": {
            **_UNET,
            "layers_per_block": 1,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 4,
        },
        "scheduler": {**_SCHEDULE, "_class_name": "DDIMScheduler", "clip_sample": False},
    },
}

SHORT = "a photo of a cat"
FOREIGN = "Café  déjà-vu 日本 🐈 it's 8K!! ﬁne e\u0301 привет <|endoftext|> & <b>"
LONG = " ".join(["a bright red ship on the river"] * 60)
NEGATIVE = "blurry, low-quality"

_V_ZERO = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
_KARRAS = {"use_karras_sigmas": True}


def _run(model: str, scheduler: str | None = None, **given: Any) -> dict[str, Any]:
    base = {"model": model, "scheduler": scheduler, "config": {}, "prompt": [SHORT], "negative": None,
            "size": (64, 64), "steps": 4, "guidance": 7.5, "clip_skip": None, "strength": None, "mask": False,
            "rescale": 0.0}  # fmt: skip
    return {**base, **given}


# name -> what the recorded run was asked for
RUNS: dict[str, dict[str, Any]] = {
    "sd15_pndm": _run("sd15", steps=6, negative=NEGATIVE),
    "sd15_ddim_unguided": _run("sd15", "DDIMScheduler", guidance=1.0),
    "sd15_ddim_batch": _run("sd15", "DDIMScheduler", prompt=[SHORT, FOREIGN], size=(64, 48)),
    "sd15_ddim_long": _run("sd15", "DDIMScheduler", prompt=[LONG], negative=FOREIGN, clip_skip=1),
    "sd15_lms_odd": _run("sd15", "LMSDiscreteScheduler", size=(72, 56), steps=6, prompt=[FOREIGN]),
    "sd15_euler_tall": _run("sd15", "EulerDiscreteScheduler", size=(40, 104), clip_skip=2),
    "sd15_euler_karras": _run("sd15", "EulerDiscreteScheduler", config=_KARRAS),
    "sd15_euler_a": _run("sd15", "EulerAncestralDiscreteScheduler", prompt=[SHORT, LONG]),
    "sd15_dpmpp2m": _run("sd15", "DPMSolverMultistepScheduler", steps=6),
    "sd15_dpmpp2m_karras": _run("sd15", "DPMSolverMultistepScheduler", config=_KARRAS, steps=16),
    "sd15_img2img_pndm": _run("sd15", strength=0.6, steps=5),
    "sd15_img2img_ddim": _run("sd15", "DDIMScheduler", strength=0.5, size=(56, 64)),
    "sd15_img2img_euler_full": _run("sd15", "EulerDiscreteScheduler", strength=1.0),
    "sd15_img2img_lms": _run("sd15", "LMSDiscreteScheduler", strength=0.7, steps=7),
    "sd15_img2img_dpm": _run("sd15", "DPMSolverMultistepScheduler", strength=0.75, steps=6, guidance=1.0),
    "sd15_inpaint_ddim": _run("sd15", "DDIMScheduler", config={"clip_sample": False}, strength=0.8, mask=True,
                              steps=5),
    "sd15_inpaint_euler_full": _run("sd15", "EulerDiscreteScheduler", strength=1.0, mask=True),
    "sd15_rescale": _run("sd15", "DDIMScheduler", rescale=0.7),
    "sd21_v_ddim": _run("sd21_v", negative=NEGATIVE, steps=5),
    "sd21_v_ddim_zero_snr": _run("sd21_v", config=_V_ZERO, size=(72, 72), rescale=0.7),
    "sd21_v_euler_zero_snr": _run("sd21_v", "EulerDiscreteScheduler", config=_V_ZERO),
    "sd21_v_pndm": _run("sd21_v", "PNDMScheduler", config={"skip_prk_steps": False}, steps=5),
    "sd21_v_dpmpp2m": _run("sd21_v", "DPMSolverMultistepScheduler", clip_skip=1, prompt=[FOREIGN, LONG]),
    "sdxl_base": _run("sdxl", guidance=5.0),
    "sdxl_base_negative": _run("sdxl", guidance=5.0, negative="", prompt=[FOREIGN], size=(72, 88)),
    "sdxl_base_batch_skip": _run("sdxl", prompt=[SHORT, LONG], negative=NEGATIVE, clip_skip=1, steps=3),
    "sdxl_img2img": _run("sdxl", strength=0.5, guidance=5.0),
    "sdxl_refiner_2": _run("sdxl_refiner", strength=1.0, guidance=5.0, steps=2),
    "sdxl_refiner_2_unguided": _run("sdxl_refiner", strength=0.5, guidance=1.0, steps=2, size=(56, 72)),
    "sdxl_refiner_7": _run("sdxl_refiner", strength=0.3, guidance=5.0, steps=7, size=(72, 56), negative=NEGATIVE,
                           prompt=[FOREIGN, LONG]),
    "sdxl_refiner_7_unguided": _run("sdxl_refiner", strength=0.8, guidance=1.0, steps=7, clip_skip=1),
    "sdxl_turbo_1": _run("sdxl", "EulerAncestralDiscreteScheduler", config={"timestep_spacing": "trailing"},
                         guidance=0.0, steps=1),
    "sdxl_turbo_4": _run("sdxl", "EulerAncestralDiscreteScheduler", config={"timestep_spacing": "trailing"},
                         guidance=0.0, steps=4, size=(56, 64)),
    "lcm_4": _run("lcm", guidance=8.5, steps=4, prompt=[SHORT, FOREIGN]),
    "lcm_1": _run("lcm", guidance=1.0, steps=1),
    "text_pooled": _run("text_pooled", size=(48, 64)),
}  # fmt: skip


def scheduler_config(run: dict[str, Any]) -> dict[str, Any]:
    """The `scheduler_config.json` of a run's folder."""
    config = {**MODELS[run["model"]]["scheduler"], **run["config"]}
    return config if run["scheduler"] is None else {**config, "_class_name": run["scheduler"]}


def latent_shape(run: dict[str, Any]) -> tuple[int, int, int, int]:
    width, height = run["size"]
    return (len(run["prompt"]), height // VAE_SCALE, width // VAE_SCALE, CHANNELS)


def unit_noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Unit-normal float32, by name: "start" noise, "image" latents."""
    rng = np.random.default_rng([NOISE_SEED, len(name), *name.encode()])
    return rng.standard_normal(shape, dtype=np.float32)


def step_noise(step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Fresh noise of one step of a stochastic sampler."""
    return unit_noise(f"step {step}", shape)


def picture(size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3], uint8."""
    width, height = size
    return np.random.default_rng(NOISE_SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask_latents(run: dict[str, Any]) -> np.ndarray:
    """[h, w, 1]: paint the right half, but not the last row."""
    _, height, width, _ = latent_shape(run)
    mask = np.zeros((height, width, 1), dtype=np.float32)
    mask[:-1, width // 2 :] = 1.0
    return mask


def mask_pixels(run: dict[str, Any]) -> np.ndarray:
    """[H, W, 1]: the same at the picture's size."""
    return mask_latents(run).repeat(VAE_SCALE, axis=0).repeat(VAE_SCALE, axis=1)


ODD_PROMPTS = (
    SHORT,
    FOREIGN,
    LONG,
    "",
    "   ",
    "DON'T stop\n\tnow",
    "1girl, (masterpiece:1.2), best_quality",
    "ﬁne Å Å e\u0301 İstanbul ǅ",
    "a<|endoftext|>b <|startoftext|> c",
    "مرحبا بالعالم 🏳️‍🌈👩‍👩‍👧",
    "x" * 500,
    "cat cats CAT ca t",
    "１２３ ½ ² III Ⅲ",
    "it's we're I'd they'll 'tis rock'n'roll",
    "a\u00a0b\u200bc\u3000d",
)
