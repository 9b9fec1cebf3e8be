"""Variants of the faults that were found, of the kinds that an outside examiner would try."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import struct
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from swiftai_nb.core.control import ControlReference
from swiftai_nb.core.errors import AIError, InvalidInputError, InvalidModelFilesError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import mask_to_png_bytes, to_pil
from swiftai_nb.core.metadata_values import number_of
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.downloads.cache_files import safe_join
from swiftai_nb.model_files.configs import read_generation_defaults
from swiftai_nb.model_files.safetensors_headers import read_header
from swiftai_nb.notebook.magic.parser import parse
from swiftai_nb.notebook.magic.prompt import interpolate
from tests.attack.limits import only
from tests.model_files.files import write_header

SECRET = "hf_" + "S3cret" * 6


class _Sly:
    """Gives its secret to whoever formats it or asks for a property."""

    @property
    def token_of_mine(self) -> str:
        return SECRET

    def __format__(self, _spec: str) -> str:
        return SECRET

    def __str__(self) -> str:
        return SECRET


@dataclasses.dataclass
class _Settings:
    environment: Any


_Pair = collections.namedtuple("_Pair", "module")
VARIABLES: dict[str, Any] = {
    "x": 5,
    "long": "a" * 1000,
    "sly": _Sly(),
    "settings": _Settings(os.environ),
    "copied": {"HF_TOKEN": SECRET, "inner": {"deep": SECRET}},
    "listed": [os.environ, [SECRET]],
    "pair": _Pair(os),
    "part": functools.partial(len),
    "method": [].append,
    "frame": types.SimpleNamespace(f_globals={"HF_TOKEN": SECRET}),
}


@pytest.mark.parametrize(
    "prompt",
    [
        "{sly}", "{sly.token_of_mine}", "{settings.environment['HF_TOKEN']}", "{copied['HF_TOKEN']}", "{copied}",
        "{copied['inner']['deep']}", "{listed[0]['HF_TOKEN']}", "{listed[1][0]}", "{pair.module.environ}",
        "{part.func.__self__}", "{method.__self__}", "{frame.f_globals['HF_TOKEN']}", "{get_ipython.__func__}",
        "{x.real.__class__.__mro__}", "{_}", "{In[0]}", "{x:>9999999}", "{long:>100001}", "{x:0999999999d}",
        "{x:{long}}", "{long!r:>99999999}", "{x:,.9999999f}", "{" * 50 + "x" + "}" * 50,
    ],
)  # fmt: skip
def test_a_prompt_reads_no_secret(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with only(InvalidInputError, target="variants: prompts"):
        text = interpolate(prompt, VARIABLES)
        assert SECRET not in text
        assert len(text) < len(prompt) + 2_000


@pytest.mark.parametrize(
    "key", ["parameters", "prompt", "workflow", "Dream", "sd-metadata", "Comment", "swiftai"]
)
@pytest.mark.parametrize(
    "text",
    ["word " * 20_000, "," * 100_000, ":" * 100_000, 'a: "' * 25_000, "Steps: 1, " * 10_000, 'S: "' + "\\" * 100_000,
     "\n" * 100_000, "\nNegative prompt:" * 6_000, "[" * 100_000, '{"a":' * 20_000, "'" * 99_999, "<lora:a:1>" * 9_000],
)  # fmt: skip
def test_a_pictures_text_takes_linear_time(tmp_path: Path, key: str, text: str) -> None:
    info = PngInfo()
    info.add_text(key, text, zip=True)
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    with only(InvalidInputError, target="variants: long texts"):
        recipe = GeneratedImage.open(path).recipe
        assert recipe is None or Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": ["a"]}, {"prompt": {}}, {"prompt": None}, {"seed": float("inf")}, {"seed": 2**64}, {"seed": "1"},
        {"negative_prompt": 5}, {"loras": "x"}, {"loras": [[[[]]]]}, {"loras": [{"source": 5}]}, {"versions": [1]},
        {"steps": True}, {"width": -5}, {"height": 1e308}, {"controls": [{"source": 5}]}, {"controls": [None]},
        {"controls": {"a": 1}}, {"outpaint": {"left": "x"}}, {"sources": [{"data": "x"}]}, {"sources": {"a": 1}},
        {"references_sha256": 5}, {"notes": {"a": 1}}, {"hires": "2"}, {"guidance_scale": float("nan")},
        {"embeddings": [5]}, {"extra_body": []}, {"filled_in": []}, {"model": ["a"]},
    ],
)  # fmt: skip
def test_a_recipe_of_odd_types_is_one_error(data: dict[str, Any]) -> None:
    with only(InvalidInputError, target="variants: recipes"):
        recipe = Recipe.from_dict({"prompt": "a fox", **data})
        hash(recipe)
        recipe.to_parameters()
        repr(recipe)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**F32, "shape": [2**62] * 100_000}}, {"a": {**F32, "shape": [1] * 100_000}}, {"a": F32, "b": F32},
        {"a": {**F32, "data_offsets": [4, 8]}}, {"a": {**F32, "shape": [-1, -1]}}, {"a": {**F32, "shape": [True]}},
        {"a": {**F32, "shape": [1.0]}}, {"a": {**F32, "data_offsets": [0, 4, 4]}}, {"a": {**F32, "dtype": None}},
        {"a": {**F32, "data_offsets": [4, 0]}}, {"a": {**F32, "data_offsets": [0, 2**70]}}, {"a": [F32]},
        '{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}', "[" * 50_000, {"__metadata__": []},
        "null", '"x"', '{"a": 1', "",
    ],
)  # fmt: skip
def test_a_header_of_odd_shapes_is_one_error(tmp_path: Path, header: Any) -> None:
    path = write_header(tmp_path / "m.safetensors", header, data_bytes=4)
    with only(InvalidModelFilesError, target="variants: headers"):
        read_header(path)
        raise AssertionError("it was accepted")


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 1]], np.uint8), np.array([[False, True]]), np.array([[0.0, 1.0]]), np.array([[0, 255]], np.uint8),
        np.array([[0, 65535]], np.uint16), np.array([[0, 1]]), np.array([[0, 255]], np.int32),
    ],
)  # fmt: skip
def test_a_mask_of_any_usual_kind_is_black_and_white(mask: np.ndarray) -> None:
    assert to_pil(mask_to_png_bytes(mask)).getextrema() == ((0, 255),) * 3


@pytest.mark.parametrize(
    "mask",
    [np.array([[0, np.nan]]), np.zeros((0, 2)), np.array([[None]]), np.array([["a"]]), np.array([[1j]])],
)
def test_what_is_no_mask_is_one_error(mask: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        mask_to_png_bytes(mask)


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/stdin", "/proc/self/mem", ".", "a\0b", "x" * 5_000, "~nobody/x.png"]
)
def test_what_is_no_pictures_file_is_one_error(path: str) -> None:
    with only(InvalidInputError, target="variants: files"):
        GeneratedImage.open(path)
        raise AssertionError("it was accepted")


@pytest.mark.parametrize(
    "path", ["../a", "/a", "a/../../b", "a//b/../../../c", "..", ".", "", "a\0b", "a/..", "\\\\server\\a", "a/./../..",
     "a/\ud83d", "\udcffa"]
)  # fmt: skip
def test_a_path_of_a_listing_stays_inside(path: str) -> None:
    folder = Path("/cache/snapshots/0")
    with only(InvalidModelFilesError, target="variants: paths"):
        assert folder in safe_join(folder, path).parents


@pytest.mark.parametrize(
    "line",
    ["--size " + "9" * 5_000, "--seeds 1-" + "9" * 5_000, "--seeds " + "9" * 5_000, "--steps " + "9" * 5_000,
     "--extra a=" + "[" * 100_000, "--control canny=a:" + "9" * 100_000 + "x", "--outpaint left=" + "9" * 5_000,
     "--lora a:" + "1," * 50_000, "--grid steps=" + "1," * 50_000, "--guidance " + "9" * 5_000, "--hires nan",
     "--count " + "9" * 5_000, "--quantize " + "٣", "--outpaint '٣\x1ex'", "--preview-every -1", "--out a.b", "--save " + "{" * 5_000],
)  # fmt: skip
def test_a_line_with_a_huge_value_is_one_error(line: str) -> None:
    with only(AIError, target="variants: lines"):
        parse(line, "a fox", variables={})


@pytest.mark.parametrize("depth", [900, 5_000, 100_000])
def test_a_deep_json_in_a_picture_is_no_recipe(tmp_path: Path, depth: int) -> None:
    info = PngInfo()
    for key in ("swiftai", "invokeai_metadata", "workflow"):
        info.add_text(key, '{"prompt":' * depth + json.dumps("x") + "}" * depth, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with only(InvalidInputError, target="variants: deep JSON"):
        GeneratedImage.open(tmp_path / "a.png")


def test_numbers_too_large_for_a_float_are_one_error_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="scale must be a number"):
        ControlReference("canny", b"1", 10**400)
    with pytest.raises(InvalidInputError):
        Recipe.from_dict({"prompt": "a", "guidance_scale": 10**400})
    (tmp_path / "generation_defaults.json").write_text(json.dumps({"guidance_scale": 10**400}))
    with pytest.raises(InvalidModelFilesError, match="guidance_scale cannot be"):
        read_generation_defaults(tmp_path)
    assert number_of(int, 10**400) is None


@pytest.mark.parametrize("text", ["٣\x1e", " 8\x1f", "\x1c9"])
def test_margins_in_odd_blanks_are_read_or_one_error(text: str) -> None:
    with only(AIError, target="variants: margins"):
        Outpaint.of(text)


@pytest.mark.parametrize("size", [(1, 15_000_000), (15_000_000, 1)])
def test_a_picture_of_one_line_of_pixels_is_one_error(tmp_path: Path, size: tuple[int, int]) -> None:
    chunk = zlib.compress(b"\0" * 100)
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", chunk), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    for read in (GeneratedImage.open, to_pil, mask_to_png_bytes):
        with only(InvalidInputError, target="variants: long pictures"):
            read(tmp_path / "a.png")
            raise AssertionError("it was accepted")
