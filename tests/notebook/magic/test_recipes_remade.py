"""Pictures of the bundled model are remade from their files, byte for byte."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError
from PIL import Image

from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes

SETTINGS = 30
PROMPTS = ("a red apple", "a cat in snow", "two fish", "ein Haus am Meer, größer", "a star: {literally}")
SCHEDULERS = ("ddim", "euler", "euler-a", "dpm++2m", "pndm", "lms")


def random_line(numbers: random.Random) -> str:
    parts = [
        numbers.choice(PROMPTS),
        "--raw",
        f"--steps {numbers.randint(1, 3)}",
        f"--seed {numbers.randrange(2**40)}",
    ]
    optional = (
        f"--guidance {numbers.choice((0, 1, 2.5, 7.25))}",
        f"--size {numbers.choice((32, 64, 96))}x{numbers.choice((32, 64))}",
        f"--scheduler {numbers.choice(SCHEDULERS)}",
        '--negative "blurry, dark"',
        f"--clip-skip {numbers.randint(0, 1)}",
    )
    return " ".join([*parts, *(option for option in optional if numbers.random() < 0.5)])


@pytest.mark.timeout(600)
def test_thirty_random_settings_are_remade_byte_for_byte(shell: Any, tmp_path: Path) -> None:
    numbers = random.Random(2)
    for index in range(SETTINGS):
        line = f"{random_line(numbers)} --engine local"
        first = shell.run_line_magic("imagine", line)
        path = first.save(tmp_path / f"{index}.png")
        again = shell.run_line_magic("imagine", f"--from {path} --engine local")
        assert again[0].data == first[0].data, line
        assert path.read_bytes() == first[0].data


def test_a_picture_of_the_models_earlier_version_is_the_same_drawing_at_its_present_size(
    shell: Any, tmp_path: Path
) -> None:
    now = shell.run_line_magic("imagine", "a red apple --raw --steps 2 --seed 5 --engine local")
    recipe = replace(now.recipe, width=128, height=128, model_revision="sha256:of-then")
    then = GeneratedImage.from_pil(now.pil.resize((128, 128)), recipe=recipe)
    path = then.save(tmp_path / "old.png")
    plan = shell.run_line_magic("imagine", f"--from {path} --engine local --dry-run")
    assert (plan["size"], plan["note"]) == (
        "256x256", "128x128 is of an earlier version of this model: drawn at 256x256",
    )  # fmt: skip
    again = shell.run_line_magic("imagine", f"--from {path} --engine local").only
    assert np.array_equal(np.asarray(again.pil), np.asarray(now.pil))
    assert plan["note"] in again.recipe.notes
    assert (again.recipe.width, again.recipe.height) == (256, 256)


def test_a_recipe_that_starts_from_a_picture_asks_for_it(shell: Any) -> None:
    local = "--engine local --steps 4 --seed 1"
    apple = shell.run_line_magic("imagine", f"an apple {local}").pil.resize((600, 600))
    shell.user_ns["apple"] = apple.effect_spread(9)  # more than a recipe keeps unasked
    first = shell.run_line_magic("imagine", f"a pear {local} --image apple --strength 0.5 --out pear")
    with pytest.raises(UsageError, match="starts from a picture that is not in it; give it with --image"):
        shell.run_line_magic("imagine", "--from pear --engine local")
    again = shell.run_line_magic("imagine", "--from pear --image apple --engine local")
    assert again[0].data == first[0].data


def test_a_recipe_says_by_file_and_size_which_start_picture_it_needs(shell: Any, tmp_path: Path) -> None:
    noise = Image.effect_noise((450, 300), 90).convert("RGB")
    noise.save(tmp_path / "my noise.png")
    digest = hashlib.sha256(to_png_bytes(noise)).hexdigest()[:12]
    made = shell.run_line_magic(
        "imagine", "a pear --engine local --steps 2 --image 'my noise.png' --out pear"
    )
    assert str(tmp_path) not in made.recipe.to_json()
    with pytest.raises(UsageError, match=rf"give it with --image: SHA-256 {digest}, my noise.png, 450x300"):
        shell.run_line_magic("imagine", "--from pear --engine local")


def test_a_recipe_keeps_a_small_start_picture_and_with_the_option_any(shell: Any, tmp_path: Path) -> None:
    local = "--engine local --steps 2 --seed 1"
    shell.user_ns["small"] = Image.new("RGB", (256, 256), "green")
    shell.user_ns["large"] = Image.effect_noise((300, 300), 90)
    shell.user_ns["mask"] = Image.linear_gradient("L")
    for options in ("--image small", "--image large --mask mask --embed-references"):
        first = shell.run_line_magic("imagine", f"a pear {options} --strength 0.6 {local}")
        path = first.save(tmp_path / "pear.png")
        again = shell.run_line_magic("imagine", f"--from {path} --engine local")
        assert again.data == first.data, options
        assert not any("not exactly" in note for note in again.recipe.notes)
    other = shell.run_line_magic("imagine", f"--from {path} --image small --engine local")
    assert other.recipe.mask_sha256 is None, "the recipe's mask is of its own picture"
    shell.run_line_magic("config", "Imagine.embed_references = 'none'")
    none = shell.run_line_magic("imagine", f"a pear --image small --strength 0.6 {local}")
    assert [source.data for source in none.recipe.sources] == [None]
