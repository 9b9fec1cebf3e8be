"""Pictures for ControlNets: Canny's edges against OpenCV's, lines, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from swiftai_nb.core.control import KINDS, ControlReference, made_here
from swiftai_nb.core.control_pictures import canny, control_pixels
from tests.core.canny_pictures import REFERENCE, THRESHOLDS, pictures


@pytest.mark.parametrize("name", pictures())
def test_edges_are_those_of_opencv(name):
    picture = pictures()[name]
    with np.load(REFERENCE) as recorded:
        for low, high in THRESHOLDS:
            expected = np.unpackbits(recorded[f"{name}.{low}"], axis=1)[:, : picture.shape[1]]
            assert expected.any()
            np.testing.assert_array_equal(canny(picture, low=low, high=high) // 255, expected)


def drawing() -> Image.Image:
    picture = Image.new("RGB", (200, 100), (200, 180, 90))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 10, 140, 90), fill=(40, 60, 200))
    draw.line((10, 10, 50, 90), fill=(10, 10, 10), width=2)
    return picture


@pytest.mark.parametrize("kind", made_here())
def test_a_picture_is_cropped_and_made_into_what_its_kind_follows(kind):
    pixels = control_pixels(ControlReference(kind, drawing()), width=96, height=64)
    assert (pixels.shape, pixels.dtype) == ((64, 96, 3), np.uint8)
    plain = control_pixels(ControlReference("some/folder", drawing()), width=96, height=64)
    assert (pixels != plain).any()
    if kind != "tile":
        # Lines on black; the inside of the disk is black.
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert pixels.max() > 150
        assert np.median(pixels) == 0
    for shade in ("white", "black"):  # nothing to see: no lines, and no division by zero
        empty = control_pixels(ControlReference(kind, Image.new("RGB", (8, 8), shade)), width=16, height=16)
        assert kind == "tile" or empty.max() == 0


@pytest.mark.parametrize("kind", [kind for kind, spec in KINDS.items() if not spec.is_made_here])
def test_pictures_that_the_user_brings_are_used_as_they_are(kind):
    brought = Image.fromarray(np.tile(np.arange(0, 64, dtype=np.uint8), (64, 1)))
    pixels = control_pixels(ControlReference(f"{kind}@x", brought), width=64, height=64)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(brought))
