"""Textual inversions for the tiny Stable Diffusions, in every layout of files. Knows no framework."""

import numpy as np

from tests.diffusion.parity.seeded_weights import seeded_tensor

Arrays = dict[str, np.ndarray]


def _vectors(name: str, count: int, width: int) -> np.ndarray:
    return seeded_tensor(f"{name}.embedding.weight", (count, width)) * np.float32(0.5)


# name of the file -> its tensors
FILES: dict[str, Arrays] = {
    "easyneg": {"emb_params": _vectors("easyneg", 3, 32)},
    "cat-toy": {"<cat-toy>": _vectors("cat-toy", 1, 32)[0]},
    "pair": {"clip_g": _vectors("g", 2, 48), "clip_l": _vectors("l", 2, 32)},
}
# name -> (model, files, prompt, negative prompt), where "{file:n}" is vector n of a file
CASES = {
    "sd15": (
        "sd15",
        ("easyneg", "cat-toy"),
        ("a photo of embedding:cat-toy, easyNEG fox", "<cat-toy> at easyneg.safetensors"),
        ("a photo of {cat-toy:0}, {easyneg:0}{easyneg:1}{easyneg:2} fox",
         "{cat-toy:0} at {easyneg:0}{easyneg:1}{easyneg:2}"),
    ),
    "sdxl": (
        "sdxl",
        ("pair",),
        ("a pair of cats", "blurry embedding:pair.safetensors"),
        ("a {pair:0}{pair:1} of cats", "blurry {pair:0}{pair:1}"),
    ),
}  # fmt: skip
