"""The line under the pictures of a cell, their tiles, and how a recipe prints."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from swiftai_nb.core.caption import caption_text
from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.options import Axis
from swiftai_nb.notebook.output.caption import caption_bundle
from swiftai_nb.notebook.output.pictures import LARGEST_TILES_BYTES, GridPictures, Pictures, embed
from swiftai_nb.notebook.output.tiles import grid_html, tiles_html

SETTINGS: dict[str, Any] = {"model": "emoji-mini", "width": 64, "height": 64, "steps": 10}


def picture(prompt: str = "a cat", *, elapsed_s: float | None = 1.25, **fields: Any) -> GeneratedImage:
    recipe = Recipe(prompt, **{**SETTINGS, "seed": 7, **fields})
    return GeneratedImage.from_pil(Image.new("RGB", (64, 64), "red"), recipe=recipe, elapsed_s=elapsed_s)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([picture()], "emoji-mini · 64x64 · 10 steps · seed 7 · 1.2 s"),
        ([picture(elapsed_s=None, steps=1)], "emoji-mini · 64x64 · 1 step · seed 7"),
        ([picture(seed=n) for n in (7, 8, 9)], "emoji-mini · 64x64 · 10 steps · seeds 7–9 · 3.8 s"),
        ([picture(seed=n) for n in (7, 3)], "emoji-mini · 64x64 · 10 steps · seeds 7, 3 · 2.5 s"),
        ([picture(steps=n) for n in (4, 8)], "emoji-mini · 64x64 · seed 7 · 2.5 s"),
        (
            [picture(filled_in="at night"), picture(seed=8)],
            "emoji-mini · 64x64 · 10 steps · seeds 7–8 · added by seed: at night; nothing · 2.5 s",
        ),
        ([picture(quantization_bits=4, strength=0.5)], "emoji-mini · 4 bits · 64x64 · 10 steps · strength 0.5 · seed 7 · 1.2 s"),
        ([picture(model="/home/me/models/my-cats")], "my-cats · 64x64 · 10 steps · seed 7 · 1.2 s"),
        ([picture(model="owner/name", width=None, steps=None, seed=None)], "owner/name · 1.2 s"),
        ([picture(model=None, engine="huggingface")], "huggingface · 64x64 · 10 steps · seed 7 · 1.2 s"),
        ([GeneratedImage(b"", 1, 1)], ""),
    ],
)  # fmt: skip
def test_caption(images: list[GeneratedImage], text: str) -> None:
    assert caption_text(images) == text


def test_many_seeds_stay_on_one_line() -> None:
    assert len(caption_text([picture(seed=n * n) for n in range(400)])) < 150


def test_what_was_added_to_four_pictures_is_told_whole() -> None:
    added = [
        "on a light blue background, mirrored",
        "in a field",
        "in the snow, large",
        "on a beige background",
    ]
    text = caption_text([picture(seed=n, filled_in=words) for n, words in enumerate(added)])
    assert f"added by seed: {'; '.join(added)}" in text


def test_no_recipe_is_no_caption() -> None:
    assert caption_bundle([GeneratedImage(b"", 1, 1)]) is None
    assert caption_bundle([]) is None


def test_what_a_recipe_says_is_text_in_a_page() -> None:
    evil = picture("<script>alert(1)</script>", model="<img src=x onerror=alert(1)>", filled_in="\"'><b>")
    data = caption_bundle([evil])
    assert data is not None
    for page in (data["text/html"], tiles_html([evil, evil])):
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "<b>" not in page
        assert set(re.findall(r"<(\w+)", page)) <= {"div", "details", "summary", "img"}


def test_several_pictures_are_tiles_in_a_page_and_a_sheet_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures([picture(seed=n) for n in (1, 2)], prompt="a cat")
    assert sorted(pictures._repr_mimebundle_()[0]) == ["image/png", "text/plain"]
    monkeypatch.setattr("swiftai_nb.notebook.output.pictures.is_notebook_page", lambda: True)
    data, _ = pictures._repr_mimebundle_()
    assert sorted(data) == ["image/png", "text/html", "text/plain"]
    assert data["text/html"].count("<details ") == 2
    assert sorted(pictures[:1]._repr_mimebundle_()[0]) == ["image/png", "text/plain"]
    smaller = len(data["text/html"]) * 3 // 4
    assert sorted(embed(pictures, largest_bytes=smaller)[0]) == ["image/png", "text/plain"], (
        "no room for tiles"
    )


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.sub("(<img[^>]*)>", r"\1/>", page))


def test_a_grid_is_a_labeled_table_of_tiles_in_a_page_and_a_labeled_sheet_elsewhere() -> None:
    axes = Axis("steps", (1, 2), ("1", "2")), Axis("prompt", ("<b>", "b"), ("<b>", "b"))
    grid = GridPictures([picture(), picture(), picture(), None], axes=axes, prompt="a cat")
    data, metadata = grid.bundle(has_tiles=True)
    assert sorted(data) == ["image/png", "text/html", "text/plain"]
    page = parsed(data["text/html"])
    rows = [[(cell.tag, "".join(cell.itertext())) for cell in row] for row in page.iter("tr")]
    assert [[tag for tag, _ in row] for row in rows] == [["td", "th", "th"], *[["th", "td", "td"]] * 2]
    assert [row[0][1] for row in rows] == ["", "<b>", "b"]
    assert [text for _, text in rows[0]] == ["", "steps 1", "steps 2"]
    assert [len(list(row.iter("details"))) for row in page.iter("tr")] == [0, 2, 1]
    assert metadata["image/png"]["alt"] == repr(grid)
    assert sorted(grid.bundle(has_tiles=False)[0]) == ["image/png", "text/plain"]


def test_tiles_of_a_wide_grid_are_smaller_and_a_row_needs_no_labels() -> None:
    images = [picture()] * 12
    page = parsed(grid_html(images, ([f"seed {n}" for n in range(12)], [])))
    assert {image.get("width") for image in page.iter("img")} == {"80"}
    assert [cell.tag for cell in next(page.iter("tr"))] == ["th"] * 12


def test_marimo_shows_a_picture_with_its_caption() -> None:
    image = picture('a "cat" <b>')
    mime_type, data = image._mime_()
    assert mime_type == "text/html"
    assert 'alt="a &quot;cat&quot; &lt;b&gt;"' in data
    assert "emoji-mini · 64x64 · 10 steps · seed 7 · 1.2 s" in data
    assert sorted(image._repr_mimebundle_()[0]) == ["image/png", "text/plain"], "in Jupyter as before"


def test_marimo_shows_several_pictures_as_tiles_with_their_caption() -> None:
    images = [picture(seed=seed) for seed in (7, 8)]
    mime_type, data = Pictures(images)._mime_()
    assert mime_type == "text/html"
    assert data.count("<summary") == 2
    assert "emoji-mini · 64x64 · 10 steps · seeds 7–8" in data
    assert Pictures(images[:1])._mime_() == images[0]._mime_()
    assert Pictures([])._mime_()[0] == "text/plain"


def test_very_large_pictures_are_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftai_nb.notebook.output.pictures.LARGEST_TILES_BYTES", 100)
    pictures = Pictures([picture(seed=n) for n in (1, 2)])
    assert sorted(pictures.bundle(has_tiles=True)[0]) == ["image/png", "text/plain"]
    assert LARGEST_TILES_BYTES > 10**6


def test_a_recipe_prints_on_lines_that_make_it_again() -> None:
    recipe = Recipe("a cat", seed=7, loras=(LoraReference("x.safetensors", 0.5),), versions={"mlx": "1"})
    text = repr(recipe)
    assert text.splitlines()[:3] == ["Recipe(", "    prompt='a cat',", "    seed=7,"]
    assert max(map(len, text.splitlines())) < 100
    assert "clip_skip" not in text
    assert eval(text) == recipe
