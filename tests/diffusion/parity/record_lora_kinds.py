"""Records the tiny Stable Diffusion 1.5 with adapters of every kind: `python record_lora_kinds.py [folder]`.

DoRA is PEFT's, the other kinds are merged by hand in torch, by the formulas of their trainer, LyCORIS.
"""

import sys
from pathlib import Path

import numpy as np
import peft
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import record_lora

from tests.diffusion.parity import tiny_flux, tiny_lora_kinds
from tests.diffusion.parity.tiny_lora_kinds import PATHS, SCALE


def grouped(arrays):
    modules = {}
    for key, value in arrays.items():
        name, _, role = key.partition(".")
        modules.setdefault(name, {})[role] = torch.from_numpy(np.array(value))
    return modules


def loha(weight, part):
    products = []
    for number in (1, 2):
        a, b = part[f"hada_w{number}_a"], part[f"hada_w{number}_b"]
        core = part.get(f"hada_t{number}")
        products.append(a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    factor = part["alpha"] / part["hada_w1_b"].shape[0]
    return weight + SCALE * factor * (products[0] * products[1]).reshape(weight.shape)


def lokr(weight, part):
    first, second, rank = part.get("lokr_w1"), part.get("lokr_w2"), None
    if first is None:
        first, rank = part["lokr_w1_a"] @ part["lokr_w1_b"], part["lokr_w1_b"].shape[0]
    if second is None:
        a, b, rank = part["lokr_w2_a"], part["lokr_w2_b"], part["lokr_w2_b"].shape[0]
        core = part.get("lokr_t2")
        second = a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)
        if core is None and weight.ndim == 4:
            second = second.reshape(len(second), -1, *weight.shape[2:])
    if second.ndim == 4:
        first = first[:, :, None, None]
    factor = 1.0 if rank is None else part["alpha"] / rank
    return weight + SCALE * factor * torch.kron(first, second.contiguous()).reshape(weight.shape)


def locon_tucker(weight, part):
    down, mid, up = (part[f"lora_{role}.weight"] for role in ("down", "mid", "up"))
    # The three convolutions, one after the other, on unit pictures.
    picture = torch.zeros(weight.shape[1] * 9, weight.shape[1], 5, 5)
    kernels = torch.zeros(weight.shape)
    for channel in range(weight.shape[1]):
        for y in range(3):
            for x in range(3):
                picture[channel * 9 + y * 3 + x, channel, y + 1, x + 1] = 1.0
    output = torch.conv2d(torch.conv2d(torch.conv2d(picture, down), mid, padding=1), up)[:, :, 2, 2]
    for channel in range(weight.shape[1]):
        kernels[:, channel] = output[channel * 9 : channel * 9 + 9].T.reshape(-1, 3, 3)
    return weight + SCALE * part["alpha"] / len(down) * kernels


def oft(weight, part):
    blocks = part["oft_blocks"]
    skew, unit = blocks - blocks.transpose(1, 2), torch.eye(blocks.shape[1])
    if "alpha" in part:
        limit, norm = part["alpha"] * len(weight), torch.linalg.norm(skew.flatten())
        skew = skew * torch.clamp(norm, max=limit) / norm
    rotation = (unit + skew) @ torch.linalg.inv(unit - skew)
    rows = weight.reshape(*blocks.shape[:2], *weight.shape[1:])
    rotated = torch.einsum("knm,kn...->km...", rotation, rows).reshape(weight.shape)
    return weight + SCALE * (rotated * part.get("rescale", 1.0) - weight)


def difference(weight, part):
    change = part.get("diff", part.get("w_norm"))
    return weight if change is None else weight + SCALE * change


def dora_inputs(weight, part):
    down, up = part["lora_down.weight"], part["lora_up.weight"]
    product = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    merged = weight + SCALE * part["alpha"] / len(down) * product
    axes = [axis for axis in range(weight.ndim) if axis != 1]
    return merged * part["dora_scale"] / merged.pow(2).sum(axes, keepdim=True).sqrt()


MERGES = {
    "loha": loha,
    "loha_tucker": loha,
    "lokr": lokr,
    "lokr_tucker": lokr,
    "locon_tucker": locon_tucker,
    "oft": oft,
    "differences": difference,
    "dora_inputs": dora_inputs,
}


def apply_by_hand(pipe, arrays, merge):
    for name, part in grouped(arrays).items():
        layer = pipe.unet.get_submodule(PATHS[name])
        layer.weight.copy_(merge(layer.weight, part))
        bias = part.get("diff_b", part.get("b_norm"))
        if bias is not None:
            layer.bias += SCALE * bias


def apply_peft(pipe, arrays):
    """DoRA as PEFT has it; diffusers leaves `dora_scale` out."""
    modules = grouped(arrays)
    config = peft.LoraConfig(
        r=tiny_lora_kinds.RANK,
        lora_alpha=2.0,
        use_dora=True,
        target_modules=[PATHS[name] for name in modules],
    )
    peft.inject_adapter_in_model(config, pipe.unet)
    for name, part in modules.items():
        layer = pipe.unet.get_submodule(PATHS[name])
        layer.lora_A["default"].weight.copy_(part["lora_down.weight"])
        layer.lora_B["default"].weight.copy_(part["lora_up.weight"])
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.copy_(part["dora_scale"].reshape(magnitude.shape))
        layer.scaling["default"] *= SCALE


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_flux.REFERENCES
    results = {}
    for name, build in tiny_lora_kinds.CASES.items():
        pipe = record_lora.pipeline("sd15")
        plain = record_lora.denoise(pipe, "sd15")
        if name == "dora":
            apply_peft(pipe, build())
        else:
            apply_by_hand(pipe, build(), MERGES[name])
        results[name] = record_lora.denoise(pipe, "sd15")
        change = np.abs(plain - results[name]).max()
        assert change > 0.02, f"{name} changes nothing ({change})"
    np.savez_compressed(folder / "lora_kinds.npz", **{k: v.astype(np.float32) for k, v in results.items()})


if __name__ == "__main__":
    main()
