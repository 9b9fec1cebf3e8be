"""Records what diffusers makes of inpainting UNets, InstructPix2Pix and ControlNets: `record_control.py [folder]`.

Needs torch, diffusers and transformers, as `record_sd.py`.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers

from tests.diffusion.parity import tiny_control, tiny_sd
from tests.diffusion.parity.record_sd import (
    fill,
    make_scheduler,
    make_tokenizer,
    nchw,
    networks,
    nhwc,
    patch_noise,
)
from tests.diffusion.parity.seeded_weights import seeded_weights


def make_controlnet(name):
    config, seed = tiny_control.CONTROLNETS[name]
    network = diffusers.ControlNetModel(**config)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    weights = seeded_weights(shapes, seed=seed)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return network.eval()


def pipeline_class(run):
    is_xl, name = "sdxl" in run["model"], ""
    if run["unet"].endswith("_edit"):
        name = "InstructPix2Pix"
    elif run["controls"]:
        name = "ControlNet"
    if run["mask"]:
        name += "Inpaint"
    elif run["strength"] is not None:
        name += "Img2Img"
    return getattr(diffusers, f"StableDiffusion{'XL' if is_xl else ''}{name}Pipeline")


def make_pipeline(run, made):
    parts = {**made, "scheduler": make_scheduler(run)}
    for suffix, pad in zip(("", "_2"), tiny_sd.MODELS[run["model"]]["pad"], strict=False):
        parts[f"tokenizer{suffix}"] = make_tokenizer(pad)
    if "sdxl" not in run["model"]:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if run["controls"]:
        nets = [make_controlnet(control[0]) for control in run["controls"]]
        parts["controlnet"] = nets[0] if len(nets) == 1 else nets
    pipe = pipeline_class(run)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def record_run(run, made):
    pipe = make_pipeline(run, made)
    patch_noise(pipe, run)
    shape, (width, height) = tiny_sd.latent_shape(run), run["size"]
    steps = []
    negative = run["negative"]
    call = {"prompt": run["prompt"], "num_inference_steps": run["steps"], "guidance_scale": run["guidance"],
            "negative_prompt": negative if negative is None else [negative] * len(run["prompt"]),
            "output_type": "latent",
            "callback_on_step_end": lambda p, i, t, kw: steps.append(nhwc(kw["latents"])) or {}}  # fmt: skip
    if run["rescale"]:
        call["guidance_rescale"] = run["rescale"]
    start = nchw(tiny_sd.unit_noise("start", shape))
    image = nchw(tiny_sd.unit_noise("image", shape))
    if run["unet"].endswith("_edit"):
        picture = nchw(tiny_sd.picture(run["size"])[None].astype(np.float32) / 255)
        call |= {"image": picture.repeat(shape[0], 1, 1, 1), "latents": start,
                 "image_guidance_scale": run["image_guidance"]}  # fmt: skip
        if "sdxl" in run["model"]:  # has the older callback only
            del call["callback_on_step_end"]
            call |= {"width": width, "height": height,
                     "callback": lambda i, t, latents: steps.append(nhwc(latents))}  # fmt: skip
    elif run["strength"] is None:
        call |= {"latents": start, "width": width, "height": height}
    elif run["mask"]:
        call |= {"image": torch.zeros(1, 3, height, width), "width": width, "height": height,
                 "strength": run["strength"], "mask_image": nchw(tiny_sd.mask_pixels(run)[None])}  # fmt: skip
        # At full strength the picture itself is not encoded, only what the mask leaves of it.
        encoded = [nchw(tiny_sd.unit_noise("masked", shape)[:1]), *([image] * (run["strength"] < 1))]
        pipe._encode_vae_image = lambda image, generator: encoded.pop()
    else:
        call |= {"image": image, "strength": run["strength"]}
    if run["controls"]:
        pictures = [
            nchw(tiny_control.control_picture(run, i)[None].astype(np.float32) / 255)
            for i in range(len(run["controls"]))
        ]
        _, scales, starts, ends = (list(column) for column in zip(*run["controls"], strict=True))
        is_one = len(pictures) == 1
        own = "image" if run["strength"] is None else "control_image"
        call |= {own: pictures[0] if is_one else pictures, "guess_mode": run["guess"],
                 "controlnet_conditioning_scale": scales[0] if is_one else scales,
                 "control_guidance_start": starts[0] if is_one else starts,
                 "control_guidance_end": ends[0] if is_one else ends}  # fmt: skip
    pipe(**call)
    return np.stack(steps)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    folder.mkdir(parents=True, exist_ok=True)
    results, made = {}, {model: networks(model)[0] for model in ("sd15", "sd21_v", "sdxl")}
    for name, run in tiny_control.RUNS.items():
        unet, _ = fill(diffusers.UNet2DConditionModel(**tiny_control.unet_config(run["unet"])))
        results[name] = record_run(run, {**made[run["model"]], "unet": unet})
        print(name)
    np.savez_compressed(folder / "control.npz", **results)


if __name__ == "__main__":
    main()
