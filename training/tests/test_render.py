import numpy as np
import pytest
import torch

import following
from layouts import Ground, Layout, Layouts, Placed
from render import Renderer
from scenes import COLORS, tinted


def pixels(x):
    return ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def layout(*objects, **ground):
    return Layout(objects, Ground(**ground), "", 1, "single")


def test_a_sprite_of_its_own_size_is_copied(small_art):
    (picture,) = pixels(Renderer(small_art, size=32)([layout(Placed(7, 1.0, 0.5, 0.5))]))
    opaque = small_art[0, 7, ..., 3] == 255
    assert np.array_equal(picture[opaque], small_art[0, 7][opaque][:, :3])
    assert (picture[~opaque] == 255).all()


def test_a_mirrored_sprite_is_the_copy_turned_around(small_art):
    plain, turned = pixels(
        Renderer(small_art, size=32)([layout(Placed(7, 1.0, 0.5, 0.5, mirror=m)) for m in (False, True)])
    )
    assert np.abs(plain[:, ::-1].astype(int) - turned).max() <= 1


def test_half_size_sprites_stand_in_their_place(small_art):
    (picture,) = pixels(Renderer(small_art, size=32)([layout(Placed(3, 0.5, 0.75, 0.25), color="blue")]))
    assert (picture[16:] == COLORS["blue"]).all()
    assert (picture[:, :16] == COLORS["blue"]).all()
    assert (picture[4:12, 20:23] == small_art[0, 3, 8, 8, :3]).all()


def test_later_objects_cover_earlier_ones(small_art):
    (picture,) = pixels(Renderer(small_art, size=32)([layout(*(Placed(k, 1.0, 0.5, 0.5) for k in (1, 2)))]))
    assert (picture[8, 8] == small_art[0, 2, 8, 8, :3]).all()


@pytest.mark.parametrize("color", ["red", "black", "white"])
def test_tints_are_those_of_the_128_px_model(small_art, color):
    (picture,) = pixels(Renderer(small_art, size=32)([layout(Placed(7, 1.0, 0.5, 0.5, tint=color))]))
    wanted = tinted(small_art[0, 7].astype(np.float32), color)[8, 8, :3]
    assert np.abs(picture[8, 8].astype(np.float32) - wanted).max() <= 2.5


def test_night_darkens_a_scene(small_art):
    render = Renderer(small_art, size=32)
    day, night = (render.ground(Ground(scene="beach", time=time)) for time in ("", "at night"))
    assert night.mean() < 0.6 * day.mean()


def test_a_batch_is_drawn_as_one_by_one(small_art, subjects):
    render, make, rng = Renderer(small_art, size=32), Layouts(subjects), np.random.default_rng(1)
    described = [make(rng) for _ in range(24)]
    alone = torch.cat([render([d]) for d in described])
    assert torch.allclose(render(described), alone, atol=1e-5)
    assert alone.min() >= -1
    assert alone.max() <= 1


def test_training_pictures_follow_their_own_attributes(small_art, subjects):
    render, make = Renderer(small_art, size=64), Layouts(subjects)
    asked = following.asked_for(subjects[:4], n=12)
    assert asked
    pictures = render([make.one(k, *c) for k, c in asked])
    assert following.followed(pictures, asked, layouts=make, render=render) == dict.fromkeys(
        (*following.NAMES, following.TOGETHER), 1.0
    )


def test_pictures_of_other_attributes_do_not_follow(small_art, subjects):
    render, make = Renderer(small_art, size=64), Layouts(subjects)
    asked = following.asked_for(subjects[:4], n=12)
    pictures = render(
        [make.one(k, (c[0] + 1) % 4, not c[1], 0.84 if c[2] != 0.84 else 1.0) for k, c in asked]
    )
    assert max(following.followed(pictures, asked, layouts=make, render=render).values()) < 0.4
