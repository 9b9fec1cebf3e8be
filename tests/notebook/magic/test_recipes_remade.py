"""Pictures of the bundled model are remade from their files, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError

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
        f"--size {numbers.choice((32, 48, 64))}x{numbers.choice((32, 64))}",
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


def test_a_recipe_that_starts_from_a_picture_asks_for_it(shell: Any) -> None:
    local = "--engine local --steps 4 --seed 1"
    shell.run_line_magic("imagine", f"an apple {local} --out apple")
    first = shell.run_line_magic("imagine", f"a pear {local} --image apple --strength 0.5 --out pear")
    with pytest.raises(UsageError, match="starts from a picture that is not in it; give it with --image"):
        shell.run_line_magic("imagine", "--from pear --engine local")
    again = shell.run_line_magic("imagine", "--from pear --image apple --engine local")
    assert again[0].data == first[0].data
