"""A picture decoded in tiles is the picture decoded at once."""

import numpy as np
import pytest

from swiftai_nb.diffusion import load_pipeline
from swiftai_nb.diffusion.models.layers import GroupNorm
from swiftai_nb.diffusion.models.vae import VAEConfig
from swiftai_nb.diffusion.tiled_decoding import reach, tiles


def uneven_latents(height, width):
    """[1, h, w, 4]: texture on a ground that differs from corner to corner."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ground = np.stack([x / width, y / height, np.sin(x / 5), np.cos(y / 7)], -1)
    texture = np.random.default_rng(1).standard_normal((height, width, 4), dtype=np.float32)
    return (2 * ground + 0.5 * texture)[None]


def test_tiles_show_no_seams_and_leave_no_trace(sd15_folder):
    image = load_pipeline(sd15_folder, dtype="float32")._image
    latents, scale = uneven_latents(36, 30), image.config.scale
    image.decode_side = 10_000
    whole = image.decode(latents).astype(int)
    image.decode_side = 28 * scale
    difference = image.decode(latents).astype(int) - whole
    assert 0 < np.abs(difference).mean() <= 3

    cores = [tile.core for tile in tiles(36, 30, side=28, overlap=reach(image.config))]
    assert len(cores) > 4
    for axis, starts in ((1, {core[0] for core in cores}), (2, {core[2] for core in cores})):
        jumps = np.abs(np.diff(difference, axis=axis)).mean(axis=(0, 3 - axis, 3))
        at_edges = [jumps[scale * start - 1] for start in starts if start > 0]
        assert np.mean(at_edges) <= jumps.mean() + 0.3

    image.decode_side = 10_000
    assert np.array_equal(image.decode(latents), whole)
    norms = (m for _, m in image.component.network.named_modules() if isinstance(m, GroupNorm))
    assert all(norm.statistics is None for norm in norms)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(128, 128, 64), (33, 200, 40), (5, 7, 64), (64, 64, 64)]
)
def test_cores_cover_everything_once_and_tiles_stay_small(height, width, side):
    seen, overlap = np.zeros((height, width), int), 14
    for tile in tiles(height, width, side=side, overlap=overlap):
        top, bottom, left, right = tile.core
        seen[top:bottom, left:right] += 1
        p = tile.padded
        assert p[1] - p[0] <= side
        assert p[3] - p[2] <= side
        assert p[0] in (0, top - overlap)
        assert p[3] in (width, right + overlap)
    assert (seen == 1).all()


def test_overlap_covers_what_the_decoder_sees():
    published = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
    assert reach(published) == 14
