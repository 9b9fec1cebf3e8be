"""Pictures carry their recipe through every format, and are written whole or not at all."""

from __future__ import annotations

import base64
import io
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe

PIXELS = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
RECIPE = Recipe(
    prompt='a "red" fox, Steps: 9\nNegative prompt: not this, 日本',
    negative_prompt="blur",
    model="emoji-mini",
    model_revision="abc",
    width=64,
    height=48,
    steps=20,
    guidance_scale=0.0,
    seed=0,
    scheduler="ddim",
    engine="mlx",
    loras=(LoraReference("a/b", 0.5),),
    versions={"swiftai_nb": "0.1.0"},
    notes=("shortened",),
)


@pytest.fixture
def image() -> GeneratedImage:
    return GeneratedImage.from_pixels(PIXELS, recipe=RECIPE, elapsed_s=1.5)


def test_pixels_come_back_as_they_were(image: GeneratedImage) -> None:
    assert (image.width, image.height, image.format) == (64, 48, "png")
    assert np.array_equal(np.asarray(image.pil), PIXELS)


def test_same_recipe_and_pixels_are_the_same_bytes(image: GeneratedImage) -> None:
    again = GeneratedImage.from_pixels(PIXELS, recipe=RECIPE, elapsed_s=9.0)
    assert image.data == again.data
    assert image == again


def test_png_returns_the_exact_recipe(image: GeneratedImage, tmp_path: Path) -> None:
    opened = GeneratedImage.open(image.save(tmp_path / "fox.png"))
    assert opened.recipe == RECIPE
    assert opened.data == image.data


@pytest.mark.parametrize("name", ["fox.jpg", "fox.JPEG", "fox.webp"])
def test_other_formats_carry_readable_parameters(name: str, tmp_path: Path) -> None:
    recipe = Recipe(
        prompt="a fox, 日本", negative_prompt="blur", steps=4, seed=0, width=64, height=48, guidance_scale=0.0
    )
    GeneratedImage.from_pixels(PIXELS, recipe=recipe).save(tmp_path / name)
    assert Recipe.from_image(tmp_path / name) == recipe


def test_saved_file_is_as_readable_as_any_other(image: GeneratedImage, tmp_path: Path) -> None:
    mode = stat.S_IMODE(image.save(tmp_path / "a.png").stat().st_mode)
    (tmp_path / "plain").touch()
    assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("name", ["fox", "fox.gif", "fox.txt"])
def test_unknown_extension_is_refused_and_leaves_nothing(
    image: GeneratedImage, name: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot save as"):
        image.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_one_clear_error(image: GeneratedImage, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot write .*missing"):
        image.save(tmp_path / "missing" / "fox.png")


def test_failed_save_keeps_the_old_file(image: GeneratedImage, tmp_path: Path) -> None:
    target = tmp_path / "fox.png"
    target.mkdir()
    with pytest.raises(InvalidInputError):
        image.save(target)
    assert list(tmp_path.iterdir()) == [target]


def test_mimebundle_is_a_plain_png_with_alt_text_and_size(image: GeneratedImage) -> None:
    data, metadata = image._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == image.data
    assert metadata["image/png"] == {"width": 192, "height": 144, "alt": RECIPE.prompt}


def test_text_is_the_same_for_every_seed() -> None:
    texts = {
        repr(GeneratedImage.from_pixels(PIXELS, recipe=Recipe(prompt="a fox", seed=s))) for s in range(3)
    }
    assert texts == {"<GeneratedImage 64x48: a fox>"}


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((512, 512), (512, 512)),
        ((1024, 512), (768, 384)),
        ((100, 50), (300, 150)),
        ((128, 128), (256, 256)),
        ((32, 16), (96, 48)),
    ],
)
def test_display_size_is_sensible(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert GeneratedImage(b"", *size).display_size == shown


def test_open_refuses_what_is_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    for path in (tmp_path / "a.png", tmp_path / "none.png"):
        with pytest.raises(InvalidInputError, match=r"cannot read a picture"):
            GeneratedImage.open(path)


def test_independent_reader_finds_prompt_seed_and_steps() -> None:
    from sd_parsers import ParserManager

    recipe = Recipe(
        prompt="a fox: red, 日本",
        negative_prompt="blur",
        steps=20,
        seed=7,
        guidance_scale=2.5,
        scheduler="ddim",
        width=64,
        height=48,
        model="emoji-mini",
    )
    image = GeneratedImage.from_pixels(PIXELS, recipe=recipe)
    found = ParserManager().parse(Image.open(io.BytesIO(image.data)))
    assert found is not None
    assert [p.value for p in found.prompts] == ["a fox: red, 日本"]
    assert [p.value for p in found.negative_prompts] == ["blur"]
    sampler = next(iter(found.samplers))
    assert int(sampler.parameters["seed"]) == 7


def test_repr_is_one_short_line_for_a_huge_prompt():
    image = GeneratedImage(b"", 1, 1, recipe=Recipe("a cat\n" * 1000))
    assert repr(image).startswith("<GeneratedImage 1x1: a cat a cat ")
    assert len(repr(image)) < 120


def test_a_prompt_too_long_for_a_jpeg_is_shortened_and_said(tmp_path: Path) -> None:
    recipe = Recipe("fox " * 9000, negative_prompt="blur " * 9000, steps=4, seed=1)
    image = GeneratedImage.from_pixels(PIXELS, recipe=recipe)
    with pytest.warns(UserWarning, match=r"fox\.jpg has a shortened prompt"):
        image.save(tmp_path / "fox.jpg")
    found = Recipe.from_image(tmp_path / "fox.jpg")
    assert found.prompt.startswith("fox fox")
    assert (found.steps, found.seed) == (4, 1)
    assert Recipe.from_image(image.save(tmp_path / "fox.png")) == recipe


def test_a_path_in_the_home_folder_is_found(
    image: GeneratedImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    image.save("~/fox.png")
    assert GeneratedImage.open("~/fox.png") == image
    assert Recipe.from_image("~/fox.png") == RECIPE


def test_a_compressed_text_bomb_is_one_clear_error(tmp_path: Path) -> None:
    import struct
    import zlib

    data = GeneratedImage.from_pixels(PIXELS).data
    body = b"zTXtparameters\0\0" + zlib.compress(b"x" * 80_000_000)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "bomb.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(InvalidInputError, match="cannot read a picture"):
        GeneratedImage.open(tmp_path / "bomb.png")


def test_a_truncated_jpeg_is_one_clear_error(tmp_path: Path) -> None:
    whole = GeneratedImage.from_pixels(PIXELS).save(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match="cannot read a picture"):
        GeneratedImage.open(tmp_path / "half.jpg")


def test_a_name_as_long_as_the_disk_allows_is_saved(image: GeneratedImage, tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 251}.png"
    assert image.save(path).read_bytes() == image.data
    with pytest.raises(InvalidInputError, match="cannot be a path"):
        image.save(tmp_path / f"{'a' * 5000}.png")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kept", [60, -30])
def test_a_truncated_png_is_refused_when_it_is_opened(tmp_path: Path, kept: int) -> None:
    image = GeneratedImage.from_pil(Image.effect_noise((64, 64), 50))
    (tmp_path / "cut.png").write_bytes(image.data[:kept])
    with pytest.raises(InvalidInputError, match="cannot read a picture"):
        GeneratedImage.open(tmp_path / "cut.png")
