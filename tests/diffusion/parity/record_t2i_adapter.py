"""Records what diffusers makes of T2I-Adapters: `record_t2i_adapter.py [folder]`; needs what `record_sd.py` needs."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers

from tests.diffusion.parity import tiny_sd, tiny_t2i_adapter
from tests.diffusion.parity.record_sd import make_scheduler, make_tokenizer, nchw, networks, nhwc, patch_noise
from tests.diffusion.parity.seeded_weights import seeded_weights


def make_adapter(name):
    config, seed = tiny_t2i_adapter.ADAPTERS[name]
    network = diffusers.T2IAdapter(**config)
    weights = seeded_weights({k: tuple(v.shape) for k, v in network.state_dict().items()}, seed=seed)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return network.eval()


@torch.no_grad()
def record_run(run, made):
    is_xl, names = "sdxl" in run["model"], [name for name, _ in run["adapters"]]
    adapters = [make_adapter(name) for name in names]
    parts = {
        **made,
        "scheduler": make_scheduler(run),
        "adapter": adapters[0] if len(adapters) == 1 else adapters,
    }
    for suffix, pad in zip(("", "_2"), tiny_sd.MODELS[run["model"]]["pad"], strict=False):
        parts[f"tokenizer{suffix}"] = make_tokenizer(pad)
    if not is_xl:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, f"StableDiffusion{'XL' if is_xl else ''}AdapterPipeline")(**parts)
    pipe.set_progress_bar_config(disable=True)
    patch_noise(pipe, run)
    pictures = []
    for index, adapter in enumerate(adapters):
        pixels = tiny_t2i_adapter.adapter_picture(run, index).astype(np.float32) / 255
        picture = nchw(pixels[None, ..., : adapter.config.in_channels])
        pictures.append(picture.repeat(len(run["prompt"]), 1, 1, 1))
    scales = [scale for _, scale in run["adapters"]]
    steps, (width, height) = [], run["size"]
    pipe(
        prompt=run["prompt"],
        negative_prompt=None if run["negative"] is None else [run["negative"]] * len(run["prompt"]),
        image=pictures[0] if len(pictures) == 1 else pictures,
        adapter_conditioning_scale=scales[0] if len(scales) == 1 else scales,
        **({"adapter_conditioning_factor": run["until"]} if "until" in run else {}),
        num_inference_steps=run["steps"],
        guidance_scale=run["guidance"],
        latents=nchw(tiny_sd.unit_noise("start", tiny_sd.latent_shape(run))),
        width=width,
        height=height,
        output_type="latent",
        callback=lambda i, t, latents: steps.append(nhwc(latents)),
    )
    return np.stack(steps)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    made = {model: networks(model)[0] for model in ("sd15", "sdxl")}
    results = {}
    for name, run in tiny_t2i_adapter.RUNS.items():
        results[name] = record_run(run, made[run["model"]])
        print(name)
    np.savez_compressed(folder / "t2i_adapter.npz", **results)


if __name__ == "__main__":
    main()
