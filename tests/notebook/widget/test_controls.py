"""Control pictures, hires passes, margins and enlargement in the widget: what is taken, refused and carried on."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.control import ControlReference, RecordedControl
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.core.sources import RecentPictures, digest_of, source_pictures
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.form import Presets, error_report, request_of
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.testing import FakeGenerator
from tests.diffusion.control_folders import write_controlnet
from tests.diffusion.sd_folders import write_folder
from tests.notebook.widget.test_imagine_widget import FORM
from tests.notebook.widget.test_input_pictures import bomb, encoded, request, sent
from tests.waiting import wait_until


class RecordingGenerator(FakeGenerator):
    """A `FakeGenerator` whose recipes say what the pictures were made from, as the local engine's do."""

    async def generate_image(self, prompt: str, **options: Any) -> GeneratedImage:
        image = await super().generate_image(prompt, **options)
        config = options["config"]
        recipe = replace(
            image.recipe,
            controls=tuple(map(RecordedControl.of, config.controls)),
            image_sha256=None if config.image is None else digest_of(config.image),
            mask_sha256=None if config.mask is None else digest_of(config.mask),
            references_sha256=tuple(map(digest_of, config.references)),
            sources=source_pictures(config),
        )
        return GeneratedImage.from_pil(image.pil, recipe=recipe)


@pytest.fixture
def generator() -> FakeGenerator:
    return RecordingGenerator()


def errors(reports: list[tuple[dict[str, Any], list[bytes]]]) -> list[tuple[str, str]]:
    """(field, message) of each error."""
    return [(one["field"], one["message"]) for one, _ in reports if one["kind"] == "error"]


def test_a_picture_of_the_page_becomes_a_control_that_python_reads(widget: ImagineWidget) -> None:
    request(widget, "set_input", memoryview(encoded()), role="control")
    (control,) = widget.controls
    assert (control.kind, control.scale, control.image) == ("canny", 1.0, to_png_bytes(encoded()))
    (snapshot,) = widget.inputs
    assert (snapshot["role"], snapshot["width"], snapshot["height"]) == ("control", 40, 30)
    assert snapshot["control"] == {
        "kind": "canny",
        "model": "",
        "scale": 1.0,
        "start": 0.0,
        "end": 1.0,
        "is_guess": False,
        "preview": f"{snapshot['id']}-canny",
    }
    request(widget, "set_input", encoded(), role="control")
    assert [one.kind for one in widget.controls] == ["canny", "lineart"], "another kind of the same picture"
    assert len({one["id"] for one in widget.inputs}) == 2
    request(widget, "remove_input", input_id=widget.inputs[0]["id"])
    assert [one.kind for one in widget.controls] == ["lineart"]


def test_the_page_sees_what_is_made_of_a_control_picture(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((600, 900, 3), np.uint8)
    pixels[:, 450:] = 255
    widget.controls = [("canny", Image.fromarray(pixels)), ("depth", Image.fromarray(pixels))]
    reports = sent(widget, monkeypatch)
    edges, depth = widget.inputs
    assert depth["control"]["preview"] == "", "the picture is used as it is"
    request(widget, "picture", picture_id=edges["control"]["preview"], size="full")
    made = Image.open(io.BytesIO(reports[0][1][0])).convert("L")
    assert made.size == (384, 256), "small, whatever was given"
    across = np.asarray(made).max(axis=0)
    assert across[190:194].max() == 255
    assert across[:180].max() == 0
    request(widget, "picture", picture_id=edges["id"], size="full")
    assert reports[1][1][0] == widget.controls[0].image
    request(widget, "picture", picture_id=f"{depth['id']}-depth", size="full")
    request(widget, "picture", picture_id=f"{edges['id']}-tile", size="full")
    assert errors(reports) == [("inputs", "this picture was removed")] * 2


def test_how_a_control_steers_is_set_by_the_page_within_the_limits_of_the_magic(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    request(widget, "set_input", encoded(), role="control")
    name = widget.inputs[0]["id"]
    request(widget, "set_control", input_id=name, source="tile@/nets/mine", scale=0.5)
    request(widget, "set_control", input_id=name, start=0.2, end=0.6, is_guess=True, image="no", kind_="x")
    (control,) = widget.controls
    assert (control.source, control.scale) == ("tile@/nets/mine", 0.5)
    assert (control.start, control.end, control.is_guess) == (0.2, 0.6, True)
    assert widget.inputs[0]["id"] == name, "the same picture"
    assert widget.inputs[0]["control"]["model"] == "/nets/mine"
    before, reports = widget.controls, sent(widget, monkeypatch)
    for wrong in (
        *({"scale": value} for value in (11, -11, "much", None, True, float("nan"))),
        *({"start": 0.6}, {"end": 2}, {"end": 0.1}, {"source": ""}, {"source": 7}, {"source": "x" * 501}),
    ):
        request(widget, "set_control", input_id=name, **wrong)
    assert [field for field, _ in errors(reports)] == ["controls"] * 12
    assert not any("unexpected" in message for _, message in errors(reports))
    assert widget.controls == before
    request(widget, "set_control", input_id="input-gone", scale=1)
    assert errors(reports)[-1][1] == "this control picture was removed"


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", encoded()[:-40], bomb()], ids=["empty", "gif", "cut", "bomb"]
)
def test_what_is_no_picture_is_no_control(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    reports = sent(widget, monkeypatch)
    request(widget, "set_input", data, role="control")
    ((field, message),) = errors(reports)
    assert field == "inputs"
    assert "unexpected" not in message
    assert widget.controls == ()


def test_too_many_controls_are_refused(widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = sent(widget, monkeypatch)
    for seed in range(9):
        request(widget, "set_input", encoded((8, 8), seed=seed), role="control")
    assert errors(reports) == [("controls", "9 controls; 8 is the most")]
    assert len(widget.controls) == 8


def test_controls_are_assigned_as_the_configuration_takes_them(widget: ImagineWidget, tmp_path: Path) -> None:
    path = tmp_path / "fox.jpg"
    path.write_bytes(encoded(file_format="JPEG"))
    widget.controls = [("canny", path, 0.8), ControlReference("depth", np.zeros((30, 40, 3), np.uint8))]
    assert [(one.source, one.scale) for one in widget.controls] == [("canny", 0.8), ("depth", 1.0)]
    assert all(Image.open(io.BytesIO(one.image)).format == "PNG" for one in widget.controls)
    widget.controls = [("canny", Image.new("RGB", (8192, 64)))]
    assert widget.inputs[0]["width"] == 4096
    for wrong in ("canny", ["canny"], [("canny",)], [("canny", encoded(), "much")], [("canny", 7)], 7, None):
        with pytest.raises(InvalidInputError):
            widget.controls = wrong
    assert len(widget.controls) == 1


def test_controls_and_larger_pictures_reach_the_request_as_the_magic_would_send_them(
    widget: ImagineWidget,
) -> None:
    job = widget.generate(
        prompt="a fox",
        controls=[("canny", encoded(), 0.8, 0.0, 0.6)],
        image=encoded(seed=1),
        outpaint="left=64",
        hires=None,
        upscale=2.0,
        upscaler="lanczos",
    )
    config = job.request.config
    assert config.controls == (ControlReference("canny", to_png_bytes(encoded()), 0.8, 0.0, 0.6),)
    assert (str(config.outpaint), config.upscale, config.upscaler) == ("left=64", 2.0, "lanczos")
    widget.image = None
    with pytest.raises(InvalidInputError, match="outpaint without image"):
        widget.generate()
    config = widget.generate(outpaint="", hires=1.5, hires_strength=0.3, hires_steps=4).request.config
    assert (config.hires, config.hires_strength, config.hires_steps) == (1.5, 0.3, 4)
    config = widget.generate(hires=None, upscale=None).request.config
    assert (config.hires_strength, config.upscaler) == (None, None), "details of nothing"


@pytest.mark.parametrize(
    ("settings", "field", "fixes"),
    [
        ({"hires": 9}, "hires", [4]),
        ({"hires": "much"}, "hires", []),
        ({"hires": 1.5, "hires_strength": 2}, "hires_strength", [1]),
        ({"hires": 1.5, "hires_steps": 0}, "hires_steps", [1]),
        ({"upscale": 20}, "upscale", [8]),
        ({"upscale": 2, "upscaler": 7}, "upscaler", []),
        ({"outpaint": "left=5000"}, "outpaint", []),
        ({"outpaint": "middle=5"}, "outpaint", []),
        ({"outpaint": "left=0"}, "outpaint", []),
        ({"outpaint": "left=64", "hires": 2}, "hires", []),
    ],
)
def test_an_error_of_a_larger_picture_stands_at_its_field(
    widget: ImagineWidget, settings: dict[str, Any], field: str, fixes: list[float]
) -> None:
    widget.image = encoded()
    with pytest.raises(InvalidInputError) as caught:
        request_of({"prompt": "a fox", **settings}, image=widget.image)
    report = error_report(caught.value)
    assert (report["field"], report["fixes"]) == (field, fixes)


def test_presets_keep_how_pictures_are_enlarged_and_no_margins(tmp_path: Path) -> None:
    larger = {"hires": 1.5, "hires_strength": 0.3, "hires_steps": 4, "upscale": 2, "upscaler": "lanczos"}
    Presets(tmp_path).save("large", {**larger, "outpaint": "left=64"})
    assert Presets(tmp_path).read() == {"large": larger}
    Presets(tmp_path).save("odd", {"hires": 9, "hires_strength": -1, "upscale": "2", "upscaler": 7})
    assert Presets(tmp_path).read()["odd"] == {}


def test_reuse_and_remix_bring_the_control_pictures_of_this_session_back(
    session: Session, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = [("canny", encoded(), 0.8), ("tile", encoded(seed=1))]
    widget.generate(prompt="a fox", steps=1, controls=controls).result(30)
    widget.generate(prompt="a cat", steps=1, controls=[]).result(30)
    wait_until(lambda: len(widget.pictures) == 2)
    fox, cat = widget.pictures
    assert (fox["controls"], cat["controls"]) == (["canny at 0.8", "tile at 1"], [])
    reports = sent(widget, monkeypatch)
    request(widget, "reuse", picture_id=fox["id"])
    assert [(one.source, one.image) for one in widget.controls] == [
        ("canny", to_png_bytes(encoded())),
        ("tile", to_png_bytes(encoded(seed=1))),
    ]
    request(widget, "reuse", picture_id=cat["id"])
    assert widget.controls == (), "that picture followed none"
    form = {**FORM, "steps": 1}
    request(widget, "generate", request_id="1", settings=form, picture_id="", of=fox["id"])
    wait_until(lambda: len(widget.images) == 3)
    assert [one.source for one in widget.images[-1].recipe.controls] == ["canny", "tile"]
    session.recent_pictures = RecentPictures()
    widget.image = encoded(seed=2)
    request(widget, "reuse", picture_id=fox["id"])
    request(widget, "generate", request_id="2", settings=form, picture_id=cat["id"], of=fox["id"])
    needed = digest_of(to_png_bytes(encoded()))[:12]
    message = f"this picture was made from one that is not here (SHA-256 {needed}, 40x30)"
    assert errors(reports) == [("inputs", message)] * 2
    assert reports[-1][0]["hint"] == "choose that one again with Control"
    assert len(widget.images) == 3
    request(widget, "reuse", picture_id="99")
    assert "no picture '99'" in errors(reports)[-1][1]


def test_reuse_brings_a_start_picture_back_that_the_recipe_keeps(
    session: Session, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.generate(prompt="a fox", steps=1, image=encoded(), mask=encoded(seed=1)).result(30)
    wait_until(lambda: len(widget.pictures) == 1)
    mask, widget.image, session.recent_pictures = widget.mask, None, RecentPictures()
    reports = sent(widget, monkeypatch)
    request(widget, "reuse", picture_id=widget.pictures[0]["id"])
    assert errors(reports) == []
    assert widget.image.data == to_png_bytes(encoded())
    assert widget.mask == mask
    widget.image = encoded(seed=3)
    request(widget, "reuse", picture_id=widget.pictures[0]["id"])
    assert widget.image.data == to_png_bytes(encoded(seed=3)), "what the user chose stays"


def test_remix_has_the_references_and_the_mask_that_the_picture_had(
    session: Session, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.generate(prompt="a fox", steps=1).result(30)
    wait_until(lambda: len(widget.pictures) == 1)
    first = widget.pictures[0]["id"]
    request(widget, "set_input", role="image", picture_id=first)
    widget.mask, widget.references = encoded(seed=1), [encoded(seed=2)]
    widget.generate(steps=1).result(30)
    wait_until(lambda: len(widget.pictures) == 2)
    changed, form = widget.pictures[1], {**FORM, "steps": 1}
    assert changed["parent"] != ""
    mask, references = widget.mask, widget.references
    widget.image, widget.references = None, []
    reports = sent(widget, monkeypatch)
    request(widget, "generate", request_id="1", settings=form, picture_id=first, of=changed["id"])
    wait_until(lambda: len(widget.images) == 3)
    recipe = widget.images[-1].recipe
    assert recipe.mask_sha256 == digest_of(mask.data)
    assert recipe.references_sha256 == (digest_of(references[0].data),)
    variation = changed["id"]
    request(widget, "generate", request_id="2", settings=form, picture_id=variation, of=variation)
    wait_until(lambda: len(widget.images) == 4)
    assert widget.images[-1].recipe.references_sha256 == ()
    request(widget, "reuse", picture_id=changed["id"])
    assert (widget.mask, widget.references) == (mask, references)
    assert errors(reports) == []


def test_recent_pictures_are_bounded_and_the_oldest_go() -> None:
    recent = RecentPictures(max_bytes=100)
    for content in (b"a" * 40, b"b" * 40, b"a" * 40, b"c" * 40, b"d" * 101):
        recent.add(content)
    kept = [letter for letter in "abcd" if recent.find(digest_of(letter.encode() * 40)) is not None]
    assert kept == []
    recent.add(b"e" * 40)
    recent.add(b"f" * 60)
    assert recent.find(digest_of(b"e" * 40)) == b"e" * 40


def tiny_session(folder: Path) -> Session:
    session = Session()
    session.registry = DiffusionModelRegistry(home=folder / "home")
    session.registry.add_folder(write_folder(folder / "sd", "sd15"), id="tiny-sd")
    return session


def test_the_picker_says_which_models_follow_pictures_and_what_that_needs(tmp_path: Path) -> None:
    session = tiny_session(tmp_path)
    widget = ImagineWidget(session=session)
    try:
        able = {row["id"] for row in widget.models if row["takes_controls"]}
        assert {"tiny-sd", "sd-1.5", "sdxl-turbo", "sd-turbo", "z-image"} <= able
        assert not able & {"emoji-mini", "flux-schnell-4bit", "flux.2-klein-4bit"}
        assert widget.controlnets == [], "the bundled model follows none"
        widget.model = "tiny-sd"
        (canny,) = [row for row in widget.controlnets if "canny" in row["kinds"]]
        assert (canny["id"], canny["state"], canny["license"]) == ("sd-1.5-canny", "download", "openrail")
        assert canny["size_bytes"] > 7e8
        widget.model = "sdxl-turbo"
        assert ["lineart", "scribble"] in [row["kinds"] for row in widget.controlnets]
        widget.model, widget.engine = "black-forest-labs/FLUX.1-schnell", "cloud"
        assert widget.controlnets == []
    finally:
        widget.close()
        session.close()


def test_a_missing_controlnet_is_an_error_of_the_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tiny_session(tmp_path)
    widget = ImagineWidget(session=session, model="tiny-sd", controls=[("canny", encoded())])
    reports = sent(widget, monkeypatch)
    form = {**FORM, "model": "tiny-sd"}
    try:
        request(widget, "generate", request_id="1", settings=form)
        ((field, message),) = errors(reports)
        assert field == "controls"
        assert message.startswith("sd-1.5-canny is not downloaded")
        widget.controls = [("canny@nothing", encoded())]
        request(widget, "generate", request_id="2", settings=form)
        assert errors(reports)[-1][0] == "controls"
        widget.controls = [("depth@" + str(write_controlnet(tmp_path / "net", "sd15_depth")), encoded())]
        request(widget, "plan", request_id="3", settings=form)
        assert reports[-1][0]["kind"] == "plan"
        assert reports[-1][0]["field"] == "controls"
        assert "none is made from a photo here" in reports[-1][0]["message"]
    finally:
        widget.close()
        session.close()


def test_a_real_engine_follows_a_picture_and_its_recipe_says_so(tmp_path: Path) -> None:
    session = tiny_session(tmp_path)
    net = write_controlnet(tmp_path / "net", "sd15_canny")
    widget = ImagineWidget(model="tiny-sd", steps=2, width=64, height=64, seed=1, session=session)
    try:
        plain = widget.generate(prompt="a fox").result(120)[0]
        request(widget, "set_input", role="control", data=base64.b64encode(encoded((64, 64))).decode())
        request(
            widget, "set_control", input_id=widget.inputs[0]["id"], source=f"canny@{net}", scale=0.9, end=0.5
        )
        followed = widget.generate(upscale=2.0, upscaler="lanczos").result(120)[0]
        assert followed.pil.size == (128, 128)
        (recorded,) = followed.recipe.controls
        assert (recorded.source, recorded.scale, recorded.end) == (f"canny@{net}", 0.9, 0.5)
        assert recorded.image_sha256 == digest_of(widget.controls[0].image)
        assert followed.pil.resize((64, 64)).tobytes() != plain.pil.tobytes()
        wait_until(lambda: len(widget.pictures) == 2)
        snapshot = widget.pictures[1]
        assert (snapshot["drawn_width"], snapshot["upscale"]) == (64, 2.0)
        line = snapshot["cell"].splitlines()[0]
        assert f"--control canny@{net}=PICTURE:0.9:0-0.5" in line
        assert "--upscale 2 --upscaler lanczos" in line
    finally:
        widget.close()
        session.close()
