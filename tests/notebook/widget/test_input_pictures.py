"""Pictures in: what is taken, what is refused before a pixel is decoded, and what the page is told."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.image_input import to_png_bytes
from swiftai_nb.notebook import wire
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.notebook.widget.input_pictures import input_picture
from swiftai_nb.registry.registry import DiffusionModelRegistry
from tests.diffusion.flux2_folders import write_klein
from tests.waiting import wait_until


def encoded(size: tuple[int, int] = (40, 30), file_format: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def sent(widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[bytes]]]:
    reports: list[tuple[dict[str, Any], list[bytes]]] = []
    monkeypatch.setattr(
        widget, "send", lambda content, buffers=None: reports.append((content, buffers or []))
    )
    return reports


def request(widget: ImagineWidget, kind: str, *buffers: Any, **content: Any) -> None:
    widget._handle_custom_msg({"kind": kind, **content}, list(buffers))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_start_picture_from_the_page_is_a_trait_that_python_reads(
    widget: ImagineWidget, file_format: str
) -> None:
    request(widget, "set_input", memoryview(encoded(file_format=file_format)), role="image")
    assert isinstance(widget.image, GeneratedImage)
    assert widget.image.pil.size == (40, 30)
    (snapshot,) = widget.inputs
    assert (snapshot["role"], snapshot["width"], snapshot["height"]) == ("image", 40, 30)
    assert "data" not in snapshot, "pixels never enter the notebook's state"


def test_base64_is_taken_where_buffers_do_not_travel(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = sent(widget, monkeypatch)
    request(widget, "set_input", role="image", data=base64.b64encode(encoded()).decode())
    assert widget.image is not None
    request(widget, "set_input", role="image", data="no base64!")
    assert reports[-1][0]["message"] == "the picture did not arrive whole"


def test_mask_belongs_to_a_start_picture_and_goes_with_it(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = sent(widget, monkeypatch)
    request(widget, "set_input", encoded(), role="mask")
    assert reports[-1][0]["message"] == "mask without image"
    request(widget, "set_input", encoded(), role="image")
    request(widget, "set_input", encoded(), role="mask")
    assert widget.mask is not None
    assert [one["role"] for one in widget.inputs] == ["image", "mask"]
    request(widget, "remove_input", input_id=widget.inputs[0]["id"])
    assert (widget.image, widget.mask, widget.inputs) == (None, None, [])
    request(widget, "set_input", encoded(), role="image")
    request(widget, "set_input", encoded(), role="mask")
    request(widget, "set_input", encoded(seed=1), role="image")
    assert widget.mask is None, "another start picture has no mask yet"


def test_references_are_a_list_without_doubles(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1, 0):
        request(widget, "set_input", encoded(seed=seed), role="reference")
    assert [one["role"] for one in widget.inputs] == ["reference", "reference"]
    request(widget, "remove_input", input_id=widget.inputs[0]["id"])
    request(widget, "remove_input", input_id="input-gone")
    assert len(widget.references) == 1
    reports = sent(widget, monkeypatch)
    for seed in range(2, 20):
        request(widget, "set_input", encoded((8, 8), seed=seed), role="reference")
    assert "limited to 16" in reports[-1][0]["message"]
    assert len(widget.references) == 16


def bomb() -> bytes:
    """A PNG that says it has 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the picture has 0 B"),
        (b"GIF89a", "cannot read a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot read a picture"),
        (encoded()[:-40], "cannot read a picture"),
        (bomb(), ""),
        (bytes(wire.MAX_RECEIVED_BYTES + 1), "the picture has 33.6 MB"),
    ],
    ids=["empty", "gif", "svg", "cut", "bomb", "large"],
)
def test_what_is_no_picture_is_refused_and_nothing_changes(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    request(widget, "set_input", encoded(), role="image")
    before, reports = widget.image, sent(widget, monkeypatch)
    request(widget, "set_input", data, role="image")
    (report,) = [content for content, _ in reports]
    assert report["kind"] == "error"
    assert message in report["message"]
    assert "unexpected" not in report["message"]
    assert widget.image == before


def test_an_unknown_role_is_refused(widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = sent(widget, monkeypatch)
    request(widget, "set_input", encoded(), role="../../etc")
    assert "no role" in reports[-1][0]["message"]


def test_any_picture_may_be_assigned_and_a_long_one_is_scaled(widget: ImagineWidget, tmp_path: Path) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(encoded())
    for source in (str(path), encoded(), Image.open(path), np.zeros((30, 40, 3), np.uint8)):
        widget.image = source
        assert widget.image.pil.size == (40, 30)
    assert input_picture(Image.new("RGB", (8192, 64))).width == 4096
    with pytest.raises(InvalidInputError, match="not a picture"):
        widget.image = 7
    with pytest.raises(InvalidInputError, match="list of pictures"):
        widget.references = "fox.png"
    other = ImagineWidget(image=encoded(), mask=np.ones((30, 40), np.uint8))
    assert other.mask.pil.getextrema() == ((255, 255),) * 3, "zeros and ones are a mask"
    other.close()


def test_page_gets_pictures_in_by_their_id_until_they_are_removed(
    widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    request(widget, "set_input", encoded((300, 200)), role="image")
    reports, name = sent(widget, monkeypatch), widget.inputs[0]["id"]
    request(widget, "picture", picture_id=name, size="full")
    request(widget, "picture", picture_id=name, size="thumbnail")
    assert reports[0][1][0] == widget.image.data
    assert Image.open(io.BytesIO(reports[1][1][0])).size == (128, 85)
    widget.image = None
    request(widget, "picture", picture_id=name, size="full")
    assert reports[-1][0]["message"] == "this picture was removed"


def test_pictures_in_reach_the_request_as_the_magic_would_send_them(
    session: Session, widget: ImagineWidget
) -> None:
    widget.image, widget.mask, widget.strength = encoded(), encoded(seed=1), 0.5
    widget.references = [encoded(seed=2)]
    job = widget.generate(prompt="a fox", steps=1)
    config = job.request.config
    assert config.image == to_png_bytes(encoded())
    assert config.references == (to_png_bytes(encoded(seed=2)),)
    assert (config.mask, config.strength) == (widget.mask.data, 0.5)
    widget.image = None
    config = widget.generate(steps=1).request.config
    assert (config.image, config.mask, config.strength) == (None, None, None)


def test_picture_of_the_history_becomes_the_parent_of_what_is_made_of_it(
    session: Session, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.generate(prompt="a fox", steps=1).result(30)
    wait_until(lambda: len(widget.pictures) == 1)
    first = widget.pictures[0]["id"]
    request(widget, "set_input", role="reference", picture_id=first)
    assert widget.inputs[0]["origin"] == first
    assert widget.references[0].recipe is not None
    digest = hashlib.sha256(widget.references[0].data).hexdigest()
    assert session.picture_origins == {digest: first}
    reports = sent(widget, monkeypatch)
    request(widget, "set_input", role="reference", picture_id="99")
    assert "no picture '99'" in reports[-1][0]["message"]


def test_a_real_engine_changes_a_picture_of_the_strip_by_reference(tmp_path: Path) -> None:
    session = Session()
    session.registry = DiffusionModelRegistry(home=tmp_path / "home")
    session.registry.add_folder(write_klein(tmp_path / "klein"), id="tiny-klein")
    widget = ImagineWidget(model="tiny-klein", steps=1, width=64, height=64, seed=1, session=session)
    (row,) = [one for one in widget.models if one["id"] == "tiny-klein"]
    assert (row["max_references"], row["takes_image"]) == (4, True)
    try:
        widget.generate(prompt="a fox").result(120)
        wait_until(lambda: len(widget.pictures) == 1)
        request(widget, "set_input", role="reference", picture_id=widget.pictures[0]["id"])
        (plain, edited) = (widget.images[0], widget.generate(prompt="a red fox").result(120)[0])
        assert edited.recipe is not None
        assert edited.recipe.references_sha256 == (hashlib.sha256(to_png_bytes(plain)).hexdigest(),)
        wait_until(lambda: [one["parent"] for one in widget.pictures] == ["", widget.pictures[0]["id"]])
        widget.model = "emoji-mini"
        with pytest.raises(InvalidInputError, match="cannot change given ones by the prompt"):
            widget.generate(prompt="a blue fox")
    finally:
        widget.close()
        session.close()
