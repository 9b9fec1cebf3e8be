"""`%imagine --widget`: the form begins with the line's values and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError

from swiftai_nb.core.image_input import to_png_bytes
from tests.notebook.widget.test_input_pictures import encoded


def opened(shell: Any, line: str) -> Any:
    widget = shell.run_line_magic("imagine", line)
    widget.close()
    return widget


def test_values_of_the_line_are_in_the_form(shell: Any) -> None:
    widget = opened(
        shell,
        "a fox --widget --steps 4 --guidance 2 --size portrait --style ink --lora a/b:0.5 --scheduler euler"
        " --hires 1.5 --hires-strength 0.3 --hires-steps 6 --upscale 2 --upscaler lanczos --seed 3 -n 2"
        " --negative blur",
    )
    assert (widget.prompt, widget.negative_prompt, widget.style) == ("a fox", "blur", "ink")
    assert (widget.steps, widget.guidance_scale, widget.seed, widget.count) == (4, 2.0, 3, 2)
    assert (widget.aspect_ratio, widget.width, widget.scheduler) == ("3:4", None, "euler")
    assert widget.loras == [{"source": "a/b", "scale": 0.5}]
    assert (widget.hires, widget.hires_strength, widget.hires_steps) == (1.5, 0.3, 6)
    assert (widget.upscale, widget.upscaler) == (2.0, "lanczos")
    assert opened(shell, "-w --size 96x64").width == 96


def test_pictures_of_the_line_are_pictures_in(shell: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("photo", "fox", "mask", "hat")):
        (tmp_path / f"{name}.png").write_bytes(encoded(seed=number))
    shell.user_ns["fox"] = str(tmp_path / "fox.png")
    widget = opened(
        shell,
        f"a fox -w --control canny={tmp_path / 'photo.png'}:0.8:0-0.6 --control tile=fox --image fox --strength 0.4"
        f" --mask {tmp_path / 'mask.png'} --with {tmp_path / 'hat.png'} --outpaint left=64,top=32",
    )
    assert [(one.source, one.scale, one.end) for one in widget.controls] == [
        ("canny", 0.8, 0.6),
        ("tile", 1, 1),
    ]
    assert widget.controls[0].image == to_png_bytes(encoded())
    assert widget.image.data == to_png_bytes(encoded(seed=1))
    assert widget.mask.width == 40
    assert len(widget.references) == 1
    assert (widget.strength, widget.outpaint) == (0.4, "left=64,top=32")
    assert [one["role"] for one in widget.inputs] == ["image", "mask", "reference", "control", "control"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a fox -w --control canny=nothing", "neither a variable nor a file"),
        ("a fox -w --control canny=x.png:11", "scale must be a number between -10 and 10"),
        ("a fox -w --hires 9", "hires must be between 1 and 4"),
        ("a fox -w --image nothing.png", "nothing.png"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line(shell: Any, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        shell.run_line_magic("imagine", line)
    assert len(str(caught.value).splitlines()) == 1
