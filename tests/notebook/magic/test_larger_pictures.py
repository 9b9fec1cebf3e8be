"""`--upscale`, `--hires`, `--outpaint` and `picture.upscale()` in cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.session import get_session
from tests.diffusion import upscaler_files as files
from tests.downloads.fake_hub import FakeHub

LOCAL = "--engine local --model emoji-mini --steps 2 --seed 1 --quiet"


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("upscalers") / "my twice.safetensors"
    return str(files.write_upscaler(path, files.compact_tensors(scale=2)))


def test_upscale_with_a_file_is_remade_from_the_picture(shell: Any, twice: str, tmp_path: Path) -> None:
    made = shell.run_line_magic("imagine", f'a red apple --upscale 2 --upscaler "{twice}" {LOCAL}')
    assert (made.width, made.recipe.upscaler) == (512, twice)
    path = made.save(tmp_path / "large.png")
    assert shell.run_line_magic("imagine", f"--from {path} --engine local --quiet").data == made.data
    plan = shell.run_line_magic("imagine", f"--from {path} --engine local --dry-run")
    assert "512x512 by" in plan["enlarged"]
    Path(twice).rename(f"{twice}.moved")
    try:
        plan = shell.run_line_magic("imagine", f"--from {path} --engine local --dry-run")
        assert any("is not known; another is used" in value for _, value in plan)
    finally:
        Path(f"{twice}.moved").rename(twice)


def test_pictures_are_enlarged_by_a_network_as_a_job(shell: Any, twice: str) -> None:
    two = shell.run_line_magic("imagine", f"a red apple {LOCAL} --count 2")
    large = two.upscale(2, upscaler=twice)
    assert [picture.width for picture in large] == [512, 512]
    assert get_session().queue.jobs[-1].images == tuple(large)
    one = two[1].upscale(2, upscaler=twice)
    assert one.data == large[1].data
    assert np.array_equal(np.asarray(one.pil), np.asarray(large[1].pil))
    photo = GeneratedImage.from_pixels(files.picture(31, 17)).upscale(3, upscaler=twice)
    assert (photo.width, photo.height, photo.recipe) == (93, 51, None)


def test_outpaint_is_remade_with_its_picture(shell: Any, tmp_path: Path) -> None:
    apple = shell.run_line_magic("imagine", f"a red apple {LOCAL}")
    shell.user_ns["apple"] = apple
    wide = shell.run_line_magic("imagine", f"a red apple --image apple --outpaint left=32,right=10 {LOCAL}")
    assert (wide.width, wide.height) == (298, 256)
    assert np.array_equal(np.asarray(wide.pil)[:, 32:288], np.asarray(apple.pil))
    path = wide.save(tmp_path / "wide.png")
    again = shell.run_line_magic("imagine", f"--from {path} --image apple --engine local --quiet")
    assert again.data == wide.data


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a fox --upscale 2 --upscaler nothing-here", "there is no upscaler 'nothing-here'"),
        ("a fox --upscale 8 --size 2048x2048", "megapixels"),
        ("a fox --upscaler lanczos --upscale 0.5", "upscale must be between 1 and 8"),
        ("a fox --hires 1.5 --image apple --mask apple", "hires pass"),
    ],
)
def test_mistakes_are_one_line(shell: Any, line: str, message: str) -> None:
    shell.user_ns["apple"] = GeneratedImage.from_pixels(files.picture(64, 64))
    with pytest.raises(UsageError, match=message):
        shell.run_line_magic("imagine", f"{line} {LOCAL}")


def test_a_factor_outside_the_limits_is_refused_before_any_work(shell: Any, twice: str) -> None:
    picture = GeneratedImage.from_pixels(files.picture(20, 20))
    for options in ({}, {"upscaler": twice}):
        with pytest.raises(InvalidInputError, match="upscale must be"):
            picture.upscale(9, **options)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    weights = files.write_upscaler(tmp_path / "x.safetensors", files.compact_tensors(scale=2)).read_bytes()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    repositories = {"Phips/2xNomosUni_compact_multijpg": {"2xNomosUni_compact_multijpg.safetensors": weights}}
    with FakeHub(repositories) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_an_upscaler_of_the_catalog_is_fetched_when_it_is_named(shell: Any, hub: FakeHub) -> None:
    plain = shell.run_line_magic("imagine", f"a red apple --upscale 2 {LOCAL}")
    assert plain.recipe.upscaler == "lanczos"
    named = shell.run_line_magic("imagine", f"a red apple --upscale 2 --upscaler nomosuni-compact-x2 {LOCAL}")
    assert named.recipe.upscaler == "nomosuni-compact-x2"
    assert shell.run_line_magic("imagine", f"a red apple --upscale 2 {LOCAL}").data == named.data
    with pytest.raises(UsageError, match="is an upscaler, which enlarges pictures"):
        shell.run_line_magic("imagine", "a fox --engine local --model nomosuni-compact-x2")
