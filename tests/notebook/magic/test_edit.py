"""Pictures changed by the prompt: `--with`, `.edit()`, their recipes, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.providers.batch import imagine_batch
from tests.diffusion.flux2_folders import write_klein
from tests.diffusion.parity import tiny_flux2


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_klein(tmp_path_factory.mktemp("klein"))


def picture(size: tuple[int, int], seed: int = 0) -> GeneratedImage:
    return GeneratedImage.from_pixels(tiny_flux2.picture(size, seed=seed))


def large() -> GeneratedImage:
    """More than a recipe keeps unasked."""
    return GeneratedImage.from_pixels(np.random.default_rng(0).integers(0, 256, (256, 192, 3), np.uint8))


def sha256(image: Any) -> str:
    return hashlib.sha256(to_png_bytes(image)).hexdigest()


@pytest.fixture
def local(shell: Any, klein: Path) -> str:
    shell.user_ns["fox"] = picture((96, 64))
    return f"--engine local --model {klein} --steps 2 --seed 1 --quiet"


def test_a_picture_is_changed_by_the_prompt_and_keeps_its_size(shell: Any, local: str) -> None:
    edited = shell.run_line_magic("imagine", f"put a red scarf on it --with fox {local}")
    assert (edited.width, edited.height) == (96, 64)
    assert edited.recipe.references_sha256 == (sha256(shell.user_ns["fox"]),)
    plain = shell.run_line_magic("imagine", f"put a red scarf on it --size 96x64 {local}")
    assert plain.data != edited.data
    assert plain.recipe.references_sha256 == ()


def test_several_references_are_variables_items_and_files_in_order(shell: Any, local: str) -> None:
    shell.user_ns["both"] = [picture((64, 64)), picture((80, 64), 1)]
    file = shell.user_ns["fox"].save("fox.png")
    line = f"a fox in a hat --with both[1] --with {file} --size 64x64 {local}"
    edited = shell.run_line_magic("imagine", line)
    assert edited.recipe.references_sha256 == (
        sha256(shell.user_ns["both"][1]),
        sha256(shell.user_ns["fox"]),
    )
    with pytest.raises(UsageError, match=r"--with both\[2\]: both has no item 2"):
        shell.run_line_magic("imagine", f"a fox --with both[2] {local}")


def test_a_recipe_of_an_edit_says_which_picture_it_needs(shell: Any, local: str) -> None:
    shell.user_ns["fox"] = large()
    shell.run_line_magic("imagine", f"a scarf --with fox {local} --out scarf")
    digest = sha256(shell.user_ns["fox"])[:12]
    with pytest.raises(UsageError, match=rf"not in it .SHA-256 {digest}.*--with"):
        shell.run_line_magic("imagine", "--from scarf --engine local --quiet")
    again = shell.run_line_magic("imagine", "--from scarf --with fox --engine local --quiet")
    assert again.data == shell.user_ns["scarf"].data
    assert again.recipe == shell.user_ns["scarf"].recipe


def test_a_recipe_of_an_edit_keeps_small_pictures(shell: Any, local: str) -> None:
    edited = shell.run_line_magic("imagine", f"a scarf --with fox {local} --out scarf")
    assert shell.run_line_magic("imagine", "--from scarf --engine local --quiet").data == edited.data
    (item,) = imagine_batch([edited.recipe], provider="mlx")
    assert item.image is not None
    assert item.image.data == edited.data


def test_edit_is_the_same_as_a_method(shell: Any, local: str, klein: Path) -> None:
    by_magic = shell.run_line_magic("imagine", f"a scarf --with fox {local}")
    fox = shell.user_ns["fox"]
    options = {"engine": "local", "model": str(klein), "steps": 2, "seed": 1, "quiet": True}
    assert fox.edit("a scarf", **options).data == by_magic.data
    twice = by_magic.edit("a hat", also=[fox], **options)
    assert twice.recipe.references_sha256 == (sha256(by_magic.only), sha256(fox))
    with pytest.raises(InvalidInputError, match=r"edit\(\) has no option 'widget'"):
        fox.edit("a scarf", widget=True)


def test_edit_without_the_extension_says_what_is_needed() -> None:
    with pytest.raises(InvalidInputError, match="extension") as raised:
        picture((64, 64)).edit("a scarf")
    assert "%load_ext swiftai_nb" in str(raised.value.hint)


def test_a_model_that_cannot_edit_names_one_that_can(shell: Any) -> None:
    shell.user_ns["fox"] = picture((96, 64))
    with pytest.raises(UsageError, match=r"Stable Diffusion makes pictures from text.*FLUX\.2 klein"):
        shell.run_line_magic("imagine", "a scarf --with fox --engine local")


def test_references_that_do_not_fit_are_refused_before_any_work(shell: Any, local: str) -> None:
    shell.user_ns["tiny"] = GeneratedImage.from_pixels(np.zeros((40, 64, 3), np.uint8))
    with pytest.raises(UsageError, match=r"64x40.*enlarge it to 103x64"):
        shell.run_line_magic("imagine", f"a scarf --with tiny {local}")
    with pytest.raises(UsageError, match="5 reference pictures"):
        shell.run_line_magic("imagine", "a scarf " + "--with fox " * 5 + local)


def test_painting_within_a_mask_with_a_reference(shell: Any, local: str) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 48:] = 255
    shell.user_ns["right"] = mask
    shell.user_ns["hat"] = picture((64, 64), 3)
    line = f"a hat --image fox --mask right --strength 1 --with hat --size 96x64 {local}"
    painted = np.asarray(shell.run_line_magic("imagine", line).pil)
    given = np.asarray(shell.user_ns["fox"].pil)
    np.testing.assert_array_equal(painted[:, :48], given[:, :48])
    assert (painted[:, 48:] != given[:, 48:]).any()


def test_a_dry_run_counts_references_and_their_memory(shell: Any, local: str) -> None:
    plain = shell.run_line_magic("imagine", f"a scarf --size 96x64 --dry-run {local}")
    edit = shell.run_line_magic("imagine", f"a scarf --with fox --dry-run {local}")
    assert (edit["reference pictures"], edit["size"]) == ("1", "96x64")
    assert "reference pictures" not in dict(plain)


def test_a_batch_refuses_a_recipe_whose_references_are_missing(shell: Any, local: str) -> None:
    shell.user_ns["fox"] = large()
    edited = shell.run_line_magic("imagine", f"a scarf --with fox {local}")
    with pytest.raises(InvalidInputError, match="changes pictures that are not in it"):
        list(imagine_batch([edited.recipe], provider="mlx"))


def test_a_grid_varies_the_reference(shell: Any, local: str) -> None:
    shell.user_ns["cat"] = picture((96, 64), 5)
    grid = shell.run_line_magic("imagine", f"a scarf --grid with=fox,cat {local}")
    first, second = (image.recipe.references_sha256 for image in grid)
    assert first == (sha256(shell.user_ns["fox"]),)
    assert second == (sha256(shell.user_ns["cat"]),)
