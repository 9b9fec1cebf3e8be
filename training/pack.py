"""Pack a diffusers folder into the 8-bit form the wheel carries, and unpack it again.

Every weight with two or more axes becomes an int8 tensor `X` and a float16 companion `X_scale`
of shape [out], so that `w = X * X_scale[:, None, ...]`. Everything else is stored as float16.

    python pack.py pack   RUN/pipeline ../swiftai_nb/assets/emoji-mini
    python pack.py unpack ../swiftai_nb/assets/emoji-mini RUN/unpacked
    python pack.py check  RUN/pipeline ../swiftai_nb/assets/emoji-mini
"""

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PACKING = "int8-per-output-channel"
WEIGHT_FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def quantize(weight):
    """Symmetric int8 with one scale per output channel (the first axis)."""
    rows = weight.float().flatten(1)
    scale = (rows.abs().amax(1) / 127).clamp_min(1e-7).half()
    packed = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return packed.view(weight.shape), scale


def dequantize(packed, scale):
    return packed.float() * scale.float().view(-1, *[1] * (packed.ndim - 1))


def read(path):
    with safe_open(path, framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118


def pack_tensors(tensors):
    out = {}
    for name, tensor in tensors.items():
        if tensor.ndim >= 2:
            out[name], out[f"{name}_scale"] = quantize(tensor)
        else:
            out[name] = tensor.half() if tensor.is_floating_point() else tensor
    return out


def unpack_tensors(tensors):
    return {
        name: dequantize(t, tensors[f"{name}_scale"]) if t.dtype == torch.int8 else t.float()
        for name, t in tensors.items()
        if not (name.endswith("_scale") and name.removesuffix("_scale") in tensors)
    }


def copy_configs(source, target):
    for part in (*WEIGHT_FILES, "scheduler", "tokenizer"):
        (target / part).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "model_index.json", target / "model_index.json")
    for part in WEIGHT_FILES:
        config = json.loads((source / part / "config.json").read_text())
        config.pop("_name_or_path", None)
        (target / part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(source / "scheduler/scheduler_config.json", target / "scheduler/scheduler_config.json")
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / "tokenizer" / name, target / "tokenizer" / name)


def convert(source, target, *, change, metadata):
    copy_configs(source, target)
    for part, name in WEIGHT_FILES.items():
        tensors = {k: v.contiguous() for k, v in change(read(source / part / name)).items()}
        save_file(tensors, target / part / name, metadata=metadata)
        (target / part / name).chmod(0o644)


def pack(source, target):
    for extra in (source.parent / "trained_words.txt", source / "preview.json"):
        if extra.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(extra, target / extra.name)
    convert(source, target, change=pack_tensors, metadata={"format": "pt", "swiftai_packing": PACKING})
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")


def unpack(source, target):
    convert(source, target, change=unpack_tensors, metadata={"format": "pt"})


def pictures(folder, *, prompts, steps):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
    return torch.from_numpy(
        pipe(prompts, num_inference_steps=steps, generator=seeds, guidance_scale=1.7, output_type="np").images
    )


def check(source, packed):
    """PSNR of weights and of four pictures, original against packed."""
    for part, name in WEIGHT_FILES.items():
        a, b = read(source / part / name), unpack_tensors(read(packed / part / name))
        noise = sum((a[k].float() - b[k]).square().sum().item() for k in a)
        power = sum(a[k].float().square().sum().item() for k in a)
        print(f"{part}: {len(a)} tensors, signal to noise {10 * math.log10(power / noise):.1f} dB")
    prompts = ["a cat", "a red car", "a rocket in space", "two apples"]
    with tempfile.TemporaryDirectory() as folder:
        unpack(packed, Path(folder))
        a, b = pictures(source, prompts=prompts, steps=8), pictures(folder, prompts=prompts, steps=8)
    for prompt, mse in zip(prompts, (a - b).square().mean((1, 2, 3)).tolist(), strict=True):
        print(f"{prompt}: PSNR {-10 * math.log10(max(mse, 1e-10)):.1f} dB")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("pack", "unpack", "check"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    {"pack": pack, "unpack": unpack, "check": check}[args.action](args.source, args.target)


if __name__ == "__main__":
    main()
