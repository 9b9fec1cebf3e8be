from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.notebook.widget.static_output import StaticOutput
from swiftai_nb.testing import FakeGenerator
from tests.waiting import wait_until


class Publisher:
    """Takes the place of the kernel's display publisher."""

    def __init__(self) -> None:
        self.outputs: dict[str, dict[str, Any]] = {}
        self.loose: list[dict[str, Any]] = []

    def publish(self, data: dict[str, Any], *_: Any, transient: Any = None, **__: Any) -> None:
        display_id = (transient or {}).get("display_id")
        if display_id is None:
            self.loose.append(data)
        else:
            self.outputs[display_id] = data


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    publisher = Publisher()
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher
    InteractiveShell.clear_instance()


def picture(side: int) -> GeneratedImage:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    return GeneratedImage.from_pixels(pixels)


@pytest.mark.parametrize("side", range(1, 10))
def test_tail_is_the_end_of_the_whole_files_base64(side: int) -> None:
    image = picture(side)
    tail = StaticOutput().tail(image)
    assert base64.b64encode(image.data).decode().endswith(tail)
    assert len(tail) >= 60


def test_newest_picture_becomes_the_output_under_the_widget(publisher: Publisher) -> None:
    session = Session()
    session.add_generator("mlx", FakeGenerator())
    widget = ImagineWidget("a fox", session=session)
    widget._ipython_display_()
    (view,) = publisher.loose
    assert "application/vnd.jupyter.widget-view+json" in view
    assert list(publisher.outputs.values()) == [{"text/html": "", "text/plain": ""}]
    job = widget.generate(steps=1)
    (image,) = job.result(30)
    wait_until(lambda: widget.images != ())
    (output,) = publisher.outputs.values()
    assert output["image/png"] == base64.b64encode(image.data).decode()
    assert output["text/plain"] == repr(image)
    assert widget.static_output_tail != ""
    assert output["image/png"].endswith(widget.static_output_tail)
    widget.close()
    session.close()


def test_widget_inside_another_widget_leaves_no_copy(publisher: Publisher) -> None:
    static_output = StaticOutput()
    static_output.update(picture(4))
    assert publisher.outputs == {}


def test_widget_displayed_twice_has_its_copy_under_each(publisher: Publisher) -> None:
    static_output = StaticOutput()
    static_output.display({"text/plain": "ImagineWidget"})
    static_output.update(picture(4))
    static_output.display({"text/plain": "ImagineWidget"})
    assert len(publisher.outputs) == 1, "one display id, so that both follow"
    assert len(publisher.loose) == 2
