"""Pictures of strangers: their recipes are valid or absent, whatever the file says."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.jobs.history import History
from swiftai_nb.jobs.history_store import INDEX_NAME
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import INFOTEXTS, METADATA, ODD, RECIPE, VALUES, jpeg_with_comment, mutated, pngs

COLUMNS = ("id", "created_at", "file", "width", "height", "prompt", "recipe", "searchable")


def use(recipe: Recipe) -> None:
    """What is done with every recipe that was accepted."""
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    hash(recipe)
    recipe.to_json().encode()
    recipe.to_parameters().encode()
    image = GeneratedImage.from_pil(Image.new("RGB", (1, 1)), recipe=recipe)
    repr(image)
    image._repr_mimebundle_()
    recipe.to_config()


@attack
@given(mutated(RECIPE) | VALUES)
def test_data_is_a_recipe_or_refused(data: Any) -> None:
    with only(InvalidInputError, target="recipes: data"):
        use(Recipe.from_dict(data))


@attack
@given(METADATA)
def test_metadata_is_a_recipe_or_none(texts: dict[str, bytes]) -> None:
    picture = Image.new("RGB", (1, 1))
    picture.info.update({key: text.decode("utf-8", "surrogateescape") for key, text in texts.items()})
    with only(InvalidInputError, target="recipes: metadata"):
        recipe = Recipe.find(picture)
        if recipe is not None:
            use(recipe)


@attack
@given(pngs())
def test_a_png_is_a_picture_or_one_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(data)
        with only(InvalidInputError, target="pictures: PNG"):
            image = GeneratedImage.open(path)
            if image.recipe is not None:
                use(image.recipe)
            to_png_bytes(path)
            assert image.pil.size == (image.width, image.height)


@attack
@given(INFOTEXTS, st.sampled_from(["ASCII\0\0\0", "UNICODE\0", "", "\0" * 8]), st.booleans())
def test_a_jpeg_comment_is_a_recipe_or_none(text: str, mark: str, is_wide: bool) -> None:
    encoded = text[:10_000].encode("utf-16-be" if is_wide else "utf-8", "surrogatepass")
    with only(InvalidInputError, target="pictures: JPEG"):
        with Image.open(io.BytesIO(jpeg_with_comment(mark.encode() + encoded))) as picture:
            recipe = Recipe.find(picture)
        if recipe is not None:
            use(recipe)


TEMPLATE = scratch_folder() / "history"


def _template() -> Path:
    """A history of two pictures, made once."""
    if not TEMPLATE.exists():
        history = History(TEMPLATE)
        for seed in (1, 2):
            recipe = Recipe(prompt="mine", seed=seed)
            history.append(GeneratedImage.from_pil(Image.new("RGB", (4, 4)), recipe=recipe))
    return TEMPLATE


@attack
@given(
    st.lists(st.tuples(st.sampled_from(COLUMNS), ODD | st.binary(max_size=5)), max_size=3),
    st.lists(pngs(), max_size=2),
    st.sampled_from(["", "", "", "pipe", "dangling", "folder", "loop"]),
)
def test_a_history_folder_survives_rows_and_files(
    cells: list[tuple[str, Any]], files: list[bytes], special: str
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "history"
        shutil.copytree(_template(), folder)
        db = sqlite3.connect(folder / INDEX_NAME)
        for column, value in cells:
            try:
                db.execute(
                    f"UPDATE OR IGNORE pictures SET {column} = ? WHERE prompt = 'mine' AND id = 1", (value,)
                )
            except (sqlite3.Error, OverflowError, UnicodeError):
                continue
        db.commit()
        db.close()
        for number, data in enumerate(files):
            (folder / f"{number}.png").write_bytes(data)
        if special == "pipe":
            os.mkfifo(folder / "pipe.png")
        elif special == "folder":
            (folder / "folder.png").mkdir()
        elif special:
            (folder / "link.png").symlink_to(folder / ("link.png" if special == "loop" else "gone"))
        with only(InvalidInputError, target="history folders"):
            history = History(folder)
            entries = list(history)
            assert any(entry.prompt == "mine" and entry.recipe is not None for entry in entries)
            for entry in entries:
                entry.recipe and use(entry.recipe)
            list(history.search("mine"))
            history.append(GeneratedImage.from_pil(Image.new("RGB", (1, 1)), recipe=Recipe(prompt="new")))
            assert history.newest(1)[0].prompt == "new"
