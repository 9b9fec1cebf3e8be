from __future__ import annotations

import numpy as np

from swiftai_nb.diffusion.preview import fit_preview, to_uint8


def test_fitted_map_finds_a_linear_autoencoders_colors_back() -> None:
    factors = np.array(
        [[0.2, -0.1, 0.05], [0.0, 0.15, -0.1], [0.1, 0.05, 0.2], [-0.05, 0.1, 0.1]], np.float32
    )
    bias = np.array([0.1, 0.0, -0.2], np.float32)

    def decode(latents: np.ndarray) -> np.ndarray:
        return to_uint8(latents @ factors + bias).repeat(4, axis=1).repeat(4, axis=2)

    found = fit_preview(decode, channels=4, scale=4)
    np.testing.assert_allclose(found.factors, factors, atol=5e-3)
    np.testing.assert_allclose(found.bias, bias, atol=5e-3)
