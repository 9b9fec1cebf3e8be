"""Z-Image's ControlNets small enough for tests: configs and runs. Knows no framework."""

from typing import Any

import numpy as np

from tests.diffusion.parity import tiny_z_image
from tests.diffusion.parity.tiny_z_image import FOREIGN, LONG, SHORT

TRANSFORMER: dict[str, Any] = {**tiny_z_image.TRANSFORMER, "n_layers": 4, "n_refiner_layers": 2}
_SHAPE = {"dim": TRANSFORMER["dim"], "n_heads": 3, "n_kv_heads": 3, "n_refiner_layers": 2}
# The published versions 1, 2.0 and 2.1.
CONTROLNETS: dict[str, dict[str, Any]] = {
    "v1": {**_SHAPE, "control_layers_places": [0, 2], "control_in_dim": 16},
    "v2.0": {**_SHAPE, "control_layers_places": [0, 2], "control_refiner_layers_places": [0, 1],
             "control_in_dim": 33, "add_control_noise_refiner": "control_layers"},
    "v2.1": {**_SHAPE, "control_layers_places": [0, 2], "control_refiner_layers_places": [0, 1],
             "control_in_dim": 33, "add_control_noise_refiner": "control_noise_refiner"},
}  # fmt: skip


def _run(net: str, **given: Any) -> dict[str, Any]:
    return {"net": net, "prompt": [SHORT], "size": (64, 64), "steps": 3, "scale": 0.75, **given}


RUNS: dict[str, dict[str, Any]] = {
    "v1": _run("v1"),
    "v1_odd_batch": _run("v1", prompt=[FOREIGN, LONG], size=(112, 80), steps=2, scale=1.2),
    "v2.0": _run("v2.0", size=(48, 64)),
    "v2.1": _run("v2.1", size=(80, 64), scale=0.5),
    "v2.1_guided": _run("v2.1", guidance_scale=3.0, negative_prompt=[FOREIGN]),
}


def control_pixels(run: dict[str, Any]) -> np.ndarray:
    """[H, W, 3], uint8."""
    width, height = run["size"]
    return np.random.default_rng(41).integers(0, 256, (height, width, 3), dtype=np.uint8)
