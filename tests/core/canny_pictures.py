"""Pictures with edges of all directions and strengths, and OpenCV's edges of them: `canny_pictures.py [file]`.

Only recording needs OpenCV: `cv2.Canny(picture, 100, 200)` and `cv2.Canny(picture, 40, 90)`.
"""

import sys
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "references" / "canny.npz"
THRESHOLDS = ((100, 200), (40, 90))


def pictures() -> dict[str, np.ndarray]:
    """Each [H, W], uint8."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:61, 0:83]
    shapes = np.zeros((61, 83))
    for _ in range(12):
        cy, cx, radius = rng.uniform((0, 0, 4), (61, 83, 20))
        shapes[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += rng.uniform(-90, 120)
    angles = 127 + 120 * np.sin(0.35 * x + 0.02 * x * y)
    soft = rng.uniform(0, 255, (61, 83))
    for _ in range(3):
        soft = (soft + np.roll(soft, 1, 0) + np.roll(soft, 1, 1) + np.roll(soft, (1, 1), (0, 1))) / 4
    found = {
        "shapes": shapes,
        "angles": angles,
        "noise": rng.uniform(0, 255, (33, 40)),
        "soft": 3 * (soft - 127) + 127,
    }
    return {name: np.clip(values, 0, 255).astype(np.uint8) for name, values in found.items()}


def main() -> None:
    import cv2

    results = {}
    for name, picture in pictures().items():
        for low, high in THRESHOLDS:
            results[f"{name}.{low}"] = np.packbits(cv2.Canny(picture, low, high) > 0, axis=1)
    np.savez_compressed(sys.argv[1] if len(sys.argv) > 1 else REFERENCE, **results)


if __name__ == "__main__":
    main()
