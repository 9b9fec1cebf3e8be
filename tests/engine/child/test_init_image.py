"""Pictures to start from, and masks on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.engine.child.init_image import read_init_image


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    return to_png_bytes(Image.new(mode, (width, height), "white"))


def test_picture_and_mask_are_cropped_alike_to_the_wanted_proportions():
    halves = Image.new("L", (200, 100))
    halves.paste(255, (100, 0, 200, 100))
    start = read_init_image(png(200, 100), to_png_bytes(halves), width=64, height=64)
    assert start.pixels.shape == (64, 64, 3)
    assert start.mask.shape == (64, 64)
    assert (start.mask[:, :30].max(), start.mask[:, 34:].min()) == (0, 1)
    assert start.notes == ()


@pytest.mark.parametrize("size", [(50, 25), (400, 200), (201, 100)])
def test_a_mask_of_the_same_proportions_is_nothing_to_note(size):
    assert read_init_image(png(200, 100), png(*size, "L"), width=64, height=64).notes == ()


def test_a_mask_of_other_proportions_is_noted_with_both_sizes():
    start = read_init_image(png(200, 100), png(100, 100, "L"), width=64, height=32)
    assert start.notes == ("the mask of 100x100 was stretched over the picture of 200x100",)


@pytest.mark.parametrize("broken", ["image", "mask"])
def test_what_is_not_a_picture_is_named(broken):
    parts = {"image": png(8, 8), "mask": png(8, 8, "L"), broken: b"not a picture"}
    with pytest.raises(InvalidInputError, match=f"{broken} is not a picture"):
        read_init_image(parts["image"], parts["mask"], width=64, height=64)


def test_a_feathered_mask_fades_in_inside_its_edge_and_keeps_the_rest_exactly():
    halves = Image.new("L", (64, 64))
    halves.paste(255, (32, 0, 64, 64))
    plain, soft = (
        read_init_image(png(64, 64), to_png_bytes(halves), width=64, height=64, feather=feather)
        for feather in (0, 8)
    )
    painted = np.zeros((64, 64, 3), np.uint8)
    hard, faded = plain.composite_unmasked(painted), soft.composite_unmasked(painted)
    assert (hard[:, :32].min(), hard[:, 32:].max()) == (255, 0)
    assert faded[:, :32].min() == 255
    row = faded[32, 32:48, 0].astype(int)
    assert row[0] > 200
    assert (np.diff(row) <= 0).all()
    assert faded[:, 48:].max() == 0
    np.testing.assert_array_equal(plain.latent_mask(8), soft.latent_mask(8))
