"""Control pictures, hires passes and margins in a real page, with the real engine and tiny random networks."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.browser.jupyter import NotebookPage, OpenNotebook
from tests.browser.test_widget import run_cell, wait_output
from tests.browser.test_widget_editing import _DROP, _PASTE
from tests.browser.widget_page import Card

SETUP = """import os, tempfile
from pathlib import Path
folder = Path(tempfile.mkdtemp())
os.environ["SWIFTAI_HOME"] = str(folder / "home")
from swiftai_nb import ImagineWidget
from swiftai_nb.notebook.session import get_session
from tests.diffusion.control_folders import write_controlnet
from tests.diffusion.sd_folders import write_folder
get_session().registry.add_folder(write_folder(folder / "sd", "sd15"), id="tiny-sd")
net = write_controlnet(Path("net"), "sd15_canny")
widget = ImagineWidget(model="tiny-sd", steps=2, width=64, height=64, seed=1)
widget"""
LOOK = """made = widget.images[-1].recipe
print("control:", [(c.source, c.scale, c.end) for c in made.controls], made.hires, made.upscale, made.outpaint)"""


def drawing(size: tuple[int, int] = (160, 120)) -> str:
    """A PNG with clear edges, in base64."""
    picture = Image.new("RGB", size, "#7db4d8")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, size[1] * 2 // 3, *size), fill="#4f8a4c")
    draw.ellipse((size[0] // 3, size[1] // 4, size[0] * 2 // 3, size[1] * 3 // 4), fill="#d8552f")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def open_card(open_notebook: OpenNotebook, *more: str, **options: object) -> tuple[NotebookPage, Card]:
    notebook = open_notebook([SETUP, *more], **options)
    run_cell(notebook, 0)
    card = Card(notebook.page)
    notebook.wait_idle()
    return notebook, card


def drop_control(notebook: NotebookPage, card: Card) -> None:
    """Drops a picture on the controls; returns when what is made of it is shown."""
    card.root.locator(".controls").evaluate(_DROP, [drawing(), "image/png"])
    notebook.until(
        "[...document.querySelectorAll('.control .map img')].filter(i => i.naturalWidth > 0).length === 2"
    )


def test_dropped_picture_is_followed_and_the_recipe_says_so(
    open_notebook: OpenNotebook, screenshots: Path
) -> None:
    notebook, card = open_card(open_notebook, LOOK)
    assert card.violations() == []
    drop_control(notebook, card)
    control = card.root.locator(".control")
    # The catalog's ControlNet is missing: it is offered, and nothing is sent without it.
    control.locator(".offer").wait_for()
    assert "ControlNet canny for Stable Diffusion 1.5 is not downloaded" in control.inner_text()
    assert "License openrail" in control.inner_text()
    card.imagine("a fox")
    card.root.locator(".controls + .error-note").wait_for()
    assert card.violations() == []
    card.screenshot(screenshots, "control-offer")
    control.locator("summary").click()
    own = control.get_by_label("ControlNet", exact=True)
    own.fill("net")
    own.press("Tab")
    control.locator(".offer").wait_for(state="hidden")
    control.get_by_label("Scale").fill("0.8")
    control.get_by_label("To", exact=True).fill("0.5")
    control.get_by_label("To", exact=True).press("Enter")
    card.screenshot(screenshots, "control")
    assert card.violations() == []
    card.root.locator("details.more > summary").click()
    card.root.get_by_label("Enlarge after").fill("2")
    card.root.get_by_label("Upscaler").select_option("lanczos")
    card.imagine("a fox")
    card.wait_scene("picture")
    wait_output(notebook, 1, "control: [('canny@net', 0.8, 0.5)] None 2.0 None")
    assert "follows canny@net at 0.8" in card.root.locator(".caption .second").inner_text()
    # A change that the kernel refuses is taken back, and said at the controls.
    control.get_by_label("From").fill("0.9")
    control.get_by_label("From").press("Tab")
    card.root.locator(".controls + .error-note").wait_for()
    assert "acts from 0.9 to 0.5" in card.root.locator(".error-note").inner_text()
    assert control.get_by_label("From").input_value() == "0"
    assert card.violations() == []
    # Without its control picture in the form, Reuse brings it back.
    card.button("Remove: control 1").click()
    control.wait_for(state="detached")
    card.button("Reuse").click()
    control.wait_for()
    assert control.get_by_label("Scale").input_value() == "0.8"
    card.button("Use as control").click()
    card.root.locator(".control").nth(1).wait_for()
    card.button("Remix").click()
    card.wait_pictures(2)
    wait_output(notebook, 1, "control: [('canny@net', 0.8, 0.5)] None 2.0 None")


def test_start_picture_is_continued_beyond_its_edges(open_notebook: OpenNotebook, screenshots: Path) -> None:
    notebook, card = open_card(open_notebook, LOOK)
    card.root.locator(".stage").evaluate(_DROP, [drawing((64, 64)), "image/png"])
    card.wait_scene("start")
    card.root.locator(".outpaint summary").click()
    card.root.get_by_label("Left").fill("32")
    card.imagine("a field")
    # The form's own size excludes margins: said where they are.
    card.root.locator(".outpaint + .error-note").wait_for()
    card.screenshot(screenshots, "outpaint")
    assert card.violations() == []
    card.root.locator("details.more > summary").click()
    card.button("Auto").click()
    card.imagine("a field")
    card.wait_scene("picture")
    wait_output(notebook, 1, "control: [] None None left=32")
    assert "96 × 64" in card.root.locator(".caption .second").inner_text()
    card.button("Start picture").is_visible()
    card.root.get_by_label("Left").fill("")
    card.root.get_by_label("Hires pass").fill("1.5")
    card.root.get_by_label("Hires change").fill("0.3")
    card.screenshot(screenshots, "hires")
    assert card.violations() == []
    card.imagine("a field")
    card.wait_pictures(2)
    wait_output(notebook, 1, "control: [] 1.5 None None")


@pytest.mark.parametrize("dark", [False, True])
def test_controls_fit_into_360_pixels(open_notebook: OpenNotebook, screenshots: Path, dark: bool) -> None:
    notebook, card = open_card(open_notebook, width=360, dark=dark, app="notebook")
    drop_control(notebook, card)
    card.root.locator(".controls").evaluate(_PASTE, [drawing((80, 200)), "image/png"])
    control = card.root.locator(".control").nth(1)
    control.get_by_label("Follow its").select_option("depth")
    control.locator(".note").wait_for()
    assert "none is made from a photo here" in control.locator(".note").inner_text()
    control.locator("summary").click()
    notebook.page.wait_for_timeout(450)  # sleep: the card's CSS transitions take 0.3 s
    wide = card.root.evaluate(
        "e => [...e.querySelectorAll('*')].some(x => x.scrollWidth > x.clientWidth + 1 &&"
        " getComputedStyle(x).overflowX === 'visible' && x.clientWidth > 0)"
    )
    card.root.locator(".controls").scroll_into_view_if_needed()
    notebook.screenshot(screenshots / f"control-360-{'dark' if dark else 'light'}.png")
    assert not wide
    assert card.violations() == []
