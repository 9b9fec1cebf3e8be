"""`--control`: its text, the pictures it makes, recipes that need it again, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.control import ControlReference, RecordedControl
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.controls import ControlOption, read_control
from swiftai_nb.providers.batch import imagine_batch
from tests.diffusion.control_folders import write_controlnet
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import write_folder


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("canny=photo.png", ControlOption("canny", "photo.png")),
        ("canny=photo.png:0.8", ControlOption("canny", "photo.png", 0.8)),
        ("canny=fox[2]:.5:0-0.6", ControlOption("canny", "fox[2]", 0.5, 0.0, 0.6)),
        ("pose=C:\\poses\\a.png", ControlOption("pose", "C:\\poses\\a.png")),
        ("tile@/nets/tile='my photo.png':1:0.2-1:guess", ControlOption("tile@/nets/tile", "my photo.png", 1, 0.2, 1, True)),
        ("/nets/x=a=b.png", ControlOption("/nets/x", "a=b.png")),
        ("depth=map:0.25-0.75", ControlOption("depth", "map", 1.0, 0.25, 0.75)),
    ],
)  # fmt: skip
def test_the_option_is_read_from_its_end(text: str, option: ControlOption) -> None:
    assert read_control(text) == option


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo.png", "not KIND=PICTURE"),
        ("canny=", "not KIND=PICTURE"),
        ("=photo.png", "not KIND=PICTURE"),
        ("canny=:0.8", "names no picture"),
        ("canny=a.png:11", "scale must be a number between -10 and 10"),
        ("canny=a.png:1:0.6-0.2", "acts from 0.6 to 0.2"),
        ("canny=a.png:1:0-2", "end must be a number between 0 and 1"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_control(text)


def test_a_configuration_takes_tuples_and_keeps_encoded_pictures(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    picture.save(tmp_path / "x.png")
    config = ImageGenerationConfig(
        controls=[("canny", picture, 0.5), ControlReference("x", tmp_path / "x.png")]
    )
    assert [(c.kind, c.model, c.scale) for c in config.controls] == [("canny", None, 0.5), (None, "x", 1.0)]
    assert all(isinstance(c.image, bytes) for c in config.controls)
    assert config.replace(steps=3).controls == config.controls
    assert hash(config) == hash(config.replace(steps=None))
    for wrong in ("canny", ["canny"], [("canny",)], [("canny", picture, "much")], [("canny", picture)] * 9):
        with pytest.raises(InvalidInputError):
            ImageGenerationConfig(controls=wrong)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("control")
    return write_folder(root / "sd15", "sd15"), write_controlnet(root / "net", "sd15_canny")


@pytest.fixture
def local(shell: Any, folders: tuple[Path, Path]) -> str:
    shell.user_ns["fox"] = GeneratedImage.from_pixels(tiny_sd.picture((96, 64)))
    return f"--engine local --model {folders[0]} --steps 2 --seed 1 --quiet --size 64x64"


def test_guess_mode_needs_no_prompt(shell: Any, local: str, folders: tuple[Path, Path]) -> None:
    followed = shell.run_line_magic("imagine", f"--control canny@{folders[1]}=fox:guess {local}")
    assert followed.recipe.prompt == ""
    assert followed.recipe.controls[0].is_guess
    shell.user_ns["old"] = followed
    again = shell.run_line_magic(
        "imagine",
        f"--from old --control canny@{folders[1]}=fox:guess --engine local --quiet --model {folders[0]}",
    )
    assert again.data == followed.data
    with pytest.raises(UsageError, match="the prompt is empty"):
        shell.run_line_magic("imagine", f"--control canny@{folders[1]}=fox {local}")


def sha256(image: Any) -> str:
    return hashlib.sha256(to_png_bytes(image)).hexdigest()


def test_a_picture_follows_another_and_its_recipe_asks_for_it_again(
    shell: Any, local: str, folders: tuple[Path, Path]
) -> None:
    net = folders[1]
    plain = shell.run_line_magic("imagine", f"a cat {local}")
    followed = shell.run_line_magic("imagine", f"a cat --control canny@{net}=fox:0.9:0-0.5 {local}")
    assert followed.data != plain.data
    recorded = RecordedControl(f"canny@{net}", sha256(shell.user_ns["fox"]), 0.9, 0.0, 0.5)
    assert followed.recipe.controls == (recorded,)
    assert Recipe.from_dict(followed.recipe.to_dict()).controls == (recorded,)
    shell.user_ns["old"] = followed
    with pytest.raises(
        UsageError, match=rf"SHA-256 {recorded.image_sha256[:12]}.*--control canny@{net}=PICTURE:0.9:0-0.5"
    ):
        shell.run_line_magic("imagine", f"--from old --engine local --quiet --model {folders[0]}")
    again = shell.run_line_magic(
        "imagine",
        f"--from old --control canny@{net}=fox:0.9:0-0.5 --engine local --quiet --model {folders[0]}",
    )
    assert again.data == followed.data
    with pytest.raises(InvalidInputError, match=r"(?s)follows pictures.*controls="):
        list(imagine_batch([followed.recipe]))


def test_several_controls_each_change_the_picture(shell: Any, local: str, folders: tuple[Path, Path]) -> None:
    net = folders[1]
    one, two, other = (
        shell.run_line_magic("imagine", f"a cat {options} {local}")
        for options in (
            f"--control {net}=fox",
            f"--control {net}=fox --control canny@{net}=fox:0.5",
            f"--control {net}=fox:1:guess",
        )
    )
    assert len({one.data, two.data, other.data}) == 3
    assert len(two.recipe.controls) == 2


def test_without_a_size_the_picture_has_the_proportions_of_what_it_follows(
    shell: Any, local: str, folders: tuple[Path, Path]
) -> None:
    line = f"a cat --control {folders[1]}=fox {local.replace('--size 64x64', '')} --dry-run"
    plan = shell.run_line_magic("imagine", line)
    width, height = (int(side) for side in plan["size"].split("x"))
    assert width == pytest.approx(1.5 * height, abs=8)
    assert plan["control"] == f"{folders[1]} at 1"
    bare = shell.run_line_magic("imagine", f"a cat {local} --dry-run")
    assert "control" not in dict(bare)


def test_what_does_not_fit_is_refused_before_any_work(
    shell: Any, local: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    net, model = folders[1], folders[0]
    shell.user_ns["gray"] = Image.fromarray(np.full((64, 64), 90, np.uint8))
    write_controlnet(tmp_path / "xl", "sdxl_canny")
    (tmp_path / "x.pth").write_bytes(b"pickle")
    cases = {
        f"{tmp_path / 'xl'}=fox": "made for a text width of 80, and this model is a text width of 32",
        f"{model}=fox": "is a whole model, not a ControlNet",
        f"{tmp_path / 'x.pth'}=fox": "is a pickle file",
        "nothing=fox": "there is no ControlNet 'nothing'",
        "someone/net=fox": "is not in the Hub's cache",
        f"depth@{net}=fox": "is not a depth map.*none is made from a photo here.*canny, lineart, scribble, tile",
        f"pose@{net}=gray": "is not a skeleton",
        "emoji-mini=fox": "emoji-mini is no ControlNet",
        f"{net}=missing.png": "missing.png",
        "canny=fox": "sd-1.5-canny is not downloaded",
    }
    for control, message in cases.items():
        with pytest.raises(Exception, match=f"(?s){message}"):
            shell.run_line_magic("imagine", f"a cat --control {control} {local}")


def test_a_depth_map_that_is_brought_is_used_and_said(
    shell: Any, local: str, folders: tuple[Path, Path]
) -> None:
    shell.user_ns["near"] = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
    made = shell.run_line_magic("imagine", f"a cat --control depth@{folders[1]}=near {local}")
    assert any("used as it is" in note for note in made.recipe.notes)


def test_a_grid_compares_strengths(shell: Any, local: str, folders: tuple[Path, Path]) -> None:
    net = folders[1]
    grid = shell.run_line_magic("imagine", f"a cat --grid control={net}=fox:0.2,{net}=fox:0.9 {local}")
    assert [picture.recipe.controls[0].scale for picture in grid] == [0.2, 0.9]
    assert grid[0].data != grid[1].data


def test_download_names_what_the_catalog_has_for_the_model(shell: Any, local: str) -> None:
    from swiftai_nb.model_files.variants import DiffusionVariant
    from swiftai_nb.notebook.session import get_session
    from swiftai_nb.registry.controls import missing_controls

    registry = get_session().registry
    controls = [ControlReference(kind, b"x") for kind in ("canny", "lineart", "edges", "pose")]
    assert missing_controls(registry, controls, DiffusionVariant.SDXL_TURBO) == (
        "sdxl-canny",
        "sdxl-scribble",
        "sdxl-pose",
    )
    assert missing_controls(registry, controls[:2], DiffusionVariant.Z_IMAGE) == ("z-image-control",)
    with pytest.raises(InvalidInputError, match="has no ControlNet for canny of Stable Diffusion 2"):
        missing_controls(registry, controls[:1], DiffusionVariant.SD_21)


@pytest.mark.parametrize(
    "item",
    [
        "canny",
        {"source": "canny"},
        {"image_sha256": "ab"},
        {"source": 5, "image_sha256": "ab"},
        {"source": "canny", "image_sha256": "ab", "scale": "much"},
        {"source": "canny", "image_sha256": "ab", "scale": 1e9},
        {"source": "canny", "image_sha256": "ab", "start": 0.9, "end": 0.1},
        {"source": "canny", "image_sha256": "ab", "is_guess": "yes"},
    ],
)
def test_a_strangers_recipe_with_other_controls_is_no_recipe(item: Any) -> None:
    with pytest.raises(InvalidInputError):
        Recipe.from_dict({"prompt": "a cat", "controls": [item]})
