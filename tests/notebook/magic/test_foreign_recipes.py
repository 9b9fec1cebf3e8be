"""Pictures of other programs as `--from`: drawn by the model at hand, with notes on what was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

LOCAL = "--engine local --model emoji-mini"


def write(path: Path, **info: Any) -> Path:
    png = PngInfo()
    for key, value in info.items():
        png.add_text(key, value if isinstance(value, str) else json.dumps(value))
    Image.new("RGB", (64, 64)).save(path, pnginfo=png)
    return path


def notes_of(shell: Any, line: str) -> tuple[Any, str]:
    plan = shell.run_line_magic("imagine", f"{line} --dry-run")
    return plan, "\n".join(value for name, value in plan if name == "note")


A1111 = "a red apple\nSteps: 2, Sampler: {sampler}, CFG scale: 1.7, Seed: 5, Size: {size}, Model: x, {more}"


def test_a_hires_block_is_one_job_with_its_second_pass(shell: Any, tmp_path: Path) -> None:
    text = A1111.format(
        sampler="Euler a",
        size="64x64",
        more="Denoising strength: 0.5, Hires upscale: 1.5, Hires upscaler: 4x-Sharp",
    )
    path = write(tmp_path / "a.png", parameters=text)
    _, notes = notes_of(shell, f"--from {path} {LOCAL}")
    assert "the recipe's upscaler 4x-Sharp is not known; another is used" in notes
    made = shell.run_line_magic("imagine", f"--from {path} {LOCAL} --quiet")
    assert (made.width, made.height) == (96, 96)
    assert (made.recipe.hires, made.recipe.hires_strength, made.recipe.seed) == (1.5, 0.5, 5)
    again = shell.run_line_magic("imagine", f"--from {made.save(tmp_path / 'again.png')} {LOCAL} --quiet")
    assert again.data == made.data


def test_a_hires_pass_beyond_the_largest_side_is_noted_and_left_out(shell: Any, tmp_path: Path) -> None:
    text = A1111.format(
        sampler="Euler a", size="1088x64", more="Denoising strength: 0.5, Hires upscale: 4, Hires steps: 3"
    )
    path = write(tmp_path / "a.png", parameters=text)
    plan, notes = notes_of(shell, f"--from {path} {LOCAL}")
    assert "the recipe's hires pass of 4 times is larger than 4096 pixels; left out" in notes
    assert not {"refused", "enlarged"} & set(dict(plan))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"sampler": "Restart"}, "sampler Restart does not fit"),
        ({"size": "61x67"}, "size 61x67 became 64x64"),
        ({"more": "Denoising strength: 0.5"}, "starts from a picture that is not in it"),
        ({"more": "ADetailer model: x"}, "not supported, and left out: ADetailer model"),
        ({"more": "Seed resize from: 1x1, Clip skip: 99"}, "clip_skip 98 is outside"),
    ],
)
def test_what_cannot_be_honored_is_noted_and_drawn_without(
    shell: Any, tmp_path: Path, changes: dict[str, str], note: str
) -> None:
    text = A1111.format(**{"sampler": "Euler", "size": "64x64", "more": "Version: v1.10", **changes})
    path = write(tmp_path / "a.png", parameters=text)
    plan, notes = notes_of(shell, f"--from {path} {LOCAL}")
    assert note in notes
    assert "refused" not in dict(plan)
    assert len(shell.run_line_magic("imagine", f"--from {path} {LOCAL} --quiet")) == 1


def test_loras_of_a_graph_that_are_not_here_are_left_out(shell: Any, tmp_path: Path) -> None:
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "2": {
            "class_type": "LoraLoader",
            "inputs": {"lora_name": "style.safetensors", "strength_model": 0.8, "model": ["1", 0]},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red apple"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 2**63, "steps": 2, "cfg": 2.0, "sampler_name": "res_multistep", "scheduler": "kl_optimal",
                "denoise": 1, "model": ["2", 0], "positive": ["3", 0], "latent_image": ["4", 0],
            },
        },
    }  # fmt: skip
    path = write(tmp_path / "a.png", prompt=graph)
    _, notes = notes_of(shell, f"--from {path} {LOCAL}")
    for part in (
        "LoRAs are not here and are left out: style.safetensors",
        "seed",
        "res_multistep",
        "kl_optimal",
    ):
        assert part in notes
    made = shell.run_line_magic("imagine", f"--from {path} {LOCAL} --quiet")
    assert (made.width, made.recipe.steps) == (64, 2)


def test_a_picture_is_enlarged_in_a_cell_with_a_note(shell: Any) -> None:
    apple = shell.run_line_magic("imagine", f"a red apple {LOCAL} --steps 1 --seed 1 --quiet")
    large = apple.upscale(2)
    assert (large.width, large.recipe.upscaler) == (512, "lanczos")
    both = shell.run_line_magic("imagine", f"a red apple {LOCAL} --steps 1 --seed 1 --count 2 --quiet")
    assert [picture.width for picture in both.upscale(1.5, upscaler="lanczos")] == [384, 384]
