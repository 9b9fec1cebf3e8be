"""What is drawn with the bundled model, here and by diffusers, from the same latents."""

import hashlib

import numpy as np

# prompt, negative prompt, steps, guidance
RUNS = {
    "as shipped": ("a cat", None, None, None),
    "guided": ("a red guitar on a blue background", "a dog", 6, 2.5),
    "scene": ("two cats on the beach", None, 20, 1.0),
}


def weights_sha256(folder):
    """Of all weight files of the model."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*/*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def latents(name, channels, side):
    """[1, side, side, channels], standard normal."""
    seed = sorted(RUNS).index(name)
    return np.random.default_rng(seed).standard_normal((1, side, side, channels)).astype(np.float32)
