"""The widget says where a request goes, and asks once before the first one is sent there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.providers.huggingface import HuggingFaceProvider
from tests.providers.huggingface.cloud_server import CloudServer
from tests.waiting import wait_until

FORM = {"prompt": "a fox", "engine": "cloud", "model": "acme/painter", "count": 1}


@pytest.fixture
def cloud() -> Iterator[CloudServer]:
    server = CloudServer()
    yield server
    server.close()


@pytest.fixture
def widget(cloud: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImagineWidget]:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    session = Session()
    session.add_generator("huggingface", HuggingFaceProvider(base_url=f"{cloud.url}/mine"))
    widget = ImagineWidget(session=session)
    yield widget
    widget.close()
    session.close()


class Page:
    def __init__(self, widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widget = widget
        self.reports: list[dict[str, Any]] = []
        monkeypatch.setattr(widget, "send", lambda content, buffers=None: self.reports.append(content))

    def request(self, kind: str, **content: Any) -> None:
        self.widget._handle_custom_msg({"kind": kind, "request_id": "1", **content}, [])

    @property
    def messages(self) -> list[str]:
        return [report["message"] for report in self.reports if report["kind"] == "error"]


@pytest.fixture
def page(widget: ImagineWidget, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(widget, monkeypatch)


def test_the_first_send_is_asked_about_once(cloud: CloudServer, page: Page) -> None:
    page.request("generate", settings=FORM)
    assert page.messages == ["this sends the prompt, to 127.0.0.1"]
    assert cloud.requests == []
    page.request("generate", settings=FORM)
    page.request("generate", settings={**FORM, "prompt": "a hare"})
    wait_until(lambda: len(page.widget.images) == 2)
    assert len(cloud.requests) == 2
    assert len(page.messages) == 1


def test_the_first_picture_is_asked_about_as_well(cloud: CloudServer, page: Page) -> None:
    page.request("generate", settings=FORM)
    page.request("generate", settings=FORM)
    wait_until(lambda: len(page.widget.images) == 1)
    page.widget.references = [Image.new("RGB", (64, 64))]
    page.request("generate", settings=FORM)
    assert page.messages[-1] == "this sends the prompt and 1 reference picture, to 127.0.0.1"
    assert len(cloud.requests) == 1


def test_the_form_says_where_it_goes_and_at_what_price(page: Page) -> None:
    page.request("plan", settings=FORM)
    assert page.reports[-1]["notes"][:2] == [
        "sends the prompt, to 127.0.0.1",
        "each picture is one request, at the provider's own price",
    ]


def test_a_cell_of_the_users_own_is_not_asked(cloud: CloudServer, widget: ImagineWidget) -> None:
    widget.generate(prompt="a fox", engine="cloud", model="acme/painter").result(30)
    assert len(cloud.requests) == 1


def test_each_destination_is_asked_about() -> None:
    request = GenerationRequest.of("a fox")
    session, plan = Session(), GenerationPlan(request=request, destination="acme")
    with pytest.raises(InvalidInputError, match="this sends the prompt, to acme"):
        session.ask_before_sending(plan)
    session.ask_before_sending(plan)
    session.ask_before_sending(GenerationPlan(request=request))
    with pytest.raises(InvalidInputError, match="to other"):
        session.ask_before_sending(GenerationPlan(request=request, destination="other"))
