"""T2I-Adapters small enough for tests: configs and runs. No framework."""

from typing import Any

import numpy as np

from tests.diffusion.parity.tiny_control import DDIM, EULER, _run, control_picture
from tests.diffusion.parity.tiny_sd import FOREIGN, NEGATIVE, SHORT

SD15, SDXL = [32, 64, 64], [32, 64, 64, 64]
# Name -> config, and the seed of its weights.
ADAPTERS: dict[str, tuple[dict[str, Any], int]] = {
    "sd15_color": ({"channels": SD15, "adapter_type": "full_adapter"}, 1),
    "sd15_gray": ({"channels": SD15, "in_channels": 1}, 2),
    "sd15_light": ({"channels": SD15[:2], "adapter_type": "light_adapter", "num_res_blocks": 4}, 3),
    "sdxl_lines": ({"channels": SDXL, "adapter_type": "full_adapter_xl", "downscale_factor": 16}, 4),
}
# Name -> what the recorded run was asked for; adapters are (name, scale), for a share of the steps.
RUNS: dict[str, dict[str, Any]] = {
    "sd15": _run("sd15", DDIM, adapters=[("sd15_color", 0.8)], negative=NEGATIVE, size=(64, 48)),
    "sd15_gray": _run("sd15", EULER, adapters=[("sd15_gray", 1.0)], guidance=1.0, size=(72, 56)),
    "sd15_light": _run("sd15", DDIM, adapters=[("sd15_light", 1.2)], prompt=[SHORT, FOREIGN]),
    "sd15_two": _run("sd15", EULER, adapters=[("sd15_color", 0.5), ("sd15_light", 0.9)], steps=3),
    "sdxl": _run("sdxl", adapters=[("sdxl_lines", 0.9)], guidance=5.0, size=(64, 96)),
    "sdxl_part": _run("sdxl", EULER, adapters=[("sdxl_lines", 1.0)], until=0.6, steps=5, size=(64, 64)),
}


def adapter_picture(run: dict[str, Any], index: int) -> np.ndarray:
    """[H, W, 3], uint8; all channels are the same for a gray adapter."""
    pixels = control_picture(run, index)
    is_gray = ADAPTERS[run["adapters"][index][0]][0].get("in_channels") == 1
    return np.repeat(pixels[..., :1], 3, axis=-1) if is_gray else pixels
