"""Inpainting UNets, InstructPix2Pix and ControlNets small enough for tests: configs and runs. No framework."""

from typing import Any

import numpy as np

from tests.diffusion.parity import tiny_sd
from tests.diffusion.parity.tiny_sd import FOREIGN, LONG, NEGATIVE, SHORT

LATENT_CHANNELS = tiny_sd.CHANNELS
# Name -> the model it is made from, and its UNet's input channels.
UNETS = {
    "sd15": ("sd15", 4),
    "sd15_inpaint": ("sd15", 9),
    "sd21_inpaint": ("sd21_v", 9),
    "sdxl_inpaint": ("sdxl", 9),
    "sd15_edit": ("sd15", 8),
    "sdxl_edit": ("sdxl", 8),
    "sd21_v": ("sd21_v", 4),
    "sdxl": ("sdxl", 4),
}
_OF_UNET = (
    "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim", "attention_head_dim",
    "norm_num_groups", "transformer_layers_per_block", "use_linear_projection", "upcast_attention",
    "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip


def controlnet(model: str, **given: Any) -> dict[str, Any]:
    """The config of a ControlNet for a tiny model."""
    unet = tiny_sd.MODELS[model]["unet"]
    own = {name: unet[name] for name in _OF_UNET if name in unet}
    return {**own, "conditioning_embedding_out_channels": (8, 12, 16, 24), **given}


# Name -> config, and the seed of its weights.
CONTROLNETS = {
    "sd15_canny": (controlnet("sd15"), 1),
    "sd15_depth": (controlnet("sd15", controlnet_conditioning_channel_order="bgr"), 2),
    "sd15_shuffle": (controlnet("sd15", global_pool_conditions=True), 3),
    "sd21_v_canny": (controlnet("sd21_v"), 4),
    "sdxl_canny": (controlnet("sdxl"), 5),
    "sdxl_pose": (controlnet("sdxl"), 6),
}

DDIM, EULER, DPM = "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"


def _run(unet: str, scheduler: str | None = None, **given: Any) -> dict[str, Any]:
    base = {"unet": unet, "model": UNETS[unet][0] if unet in UNETS else unet, "scheduler": scheduler,
            "config": {"clip_sample": False} if scheduler == DDIM else {}, "prompt": [SHORT], "negative": None, "size": (64, 64), "steps": 4, "guidance": 7.5,
            "strength": None, "mask": False, "image_guidance": 1.5, "controls": (), "rescale": 0.0,
            "guess": False}  # fmt: skip
    return {**base, **given}


# Name -> what the recorded run was asked for; controls are (ControlNet, scale, start, end).
RUNS: dict[str, dict[str, Any]] = {
    "inpaint_sd15": _run("sd15_inpaint", DDIM, strength=1.0, mask=True, size=(64, 48), negative=NEGATIVE),
    "inpaint_sd15_part": _run("sd15_inpaint", EULER, strength=0.6, mask=True, steps=5, prompt=[SHORT, FOREIGN]),
    "inpaint_sd15_unguided": _run("sd15_inpaint", strength=1.0, mask=True, guidance=1.0, size=(40, 72)),
    "inpaint_sd21": _run("sd21_inpaint", strength=0.8, mask=True, steps=5, guidance=4.0),
    "inpaint_sdxl": _run("sdxl_inpaint", strength=0.75, mask=True, guidance=5.0, size=(72, 64), rescale=0.5),
    "inpaint_sdxl_full": _run("sdxl_inpaint", DPM, strength=1.0, mask=True, negative=NEGATIVE),
    "edit_sd15": _run("sd15_edit", EULER, negative=NEGATIVE, size=(64, 80)),
    "edit_sd15_pndm": _run("sd15_edit", image_guidance=2.5, guidance=4.0, prompt=[SHORT, LONG], steps=6),
    "edit_sd15_unguided": _run("sd15_edit", DDIM, guidance=1.0),
    "edit_sd15_weak": _run("sd15_edit", DDIM, image_guidance=0.9),
    "edit_sdxl": _run("sdxl_edit", guidance=5.0, image_guidance=1.2, size=(72, 56)),
    "edit_sdxl_negative": _run("sdxl_edit", guidance=3.0, negative=NEGATIVE, rescale=0.7, prompt=[FOREIGN]),
    "control_sd15": _run("sd15", DDIM, controls=(("sd15_canny", 0.8, 0.0, 1.0),), negative=NEGATIVE),
    "control_sd15_two": _run("sd15", EULER, steps=6, size=(64, 48), prompt=[SHORT, FOREIGN],
                             controls=(("sd15_canny", 1.0, 0.0, 0.5), ("sd15_depth", 0.6, 0.3, 1.0))),
    "control_sd15_pndm": _run("sd15", steps=5, controls=(("sd15_depth", 1.3, 0.2, 0.7),), size=(40, 88)),
    "control_sd15_unguided": _run("sd15", DDIM, guidance=1.0, controls=(("sd15_canny", 1.0, 0.0, 1.0),)),
    "control_sd15_guess": _run("sd15", DDIM, guess=True, controls=(("sd15_canny", 0.9, 0.0, 1.0),)),
    "control_sd15_shuffle": _run("sd15", DDIM, controls=(("sd15_shuffle", 1.0, 0.0, 1.0),)),
    "control_sd15_image": _run("sd15", DPM, strength=0.6, steps=6,
                               controls=(("sd15_canny", 0.7, 0.25, 0.8),)),
    "control_sd15_inpaint": _run("sd15_inpaint", DDIM, strength=1.0, mask=True,
                                 controls=(("sd15_canny", 0.7, 0.0, 1.0),)),
    "control_sd21": _run("sd21_v", controls=(("sd21_v_canny", 0.5, 0.0, 1.0),), size=(72, 72)),
    "control_sdxl": _run("sdxl", guidance=5.0, controls=(("sdxl_canny", 0.5, 0.0, 0.8),), size=(72, 88)),
    "control_sdxl_two": _run("sdxl", guidance=4.0, negative=NEGATIVE, prompt=[SHORT, LONG],
                             controls=(("sdxl_canny", 0.5, 0.0, 1.0), ("sdxl_pose", 1.1, 0.4, 0.9))),
    "control_sdxl_unguided": _run("sdxl", guidance=0.0, controls=(("sdxl_pose", 1.0, 0.0, 1.0),), steps=3),
}  # fmt: skip


def unet_config(name: str) -> dict[str, Any]:
    model, channels = UNETS.get(name, (name, LATENT_CHANNELS))
    return {**tiny_sd.MODELS[model]["unet"], "in_channels": channels}


def control_picture(run: dict[str, Any], index: int) -> np.ndarray:
    """[H, W, 3], uint8, of the control with this index."""
    width, height = run["size"]
    rng = np.random.default_rng([tiny_sd.NOISE_SEED, 77, index])
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
