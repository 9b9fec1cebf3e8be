"""The picker's rows of OpenAI and of servers like it, and a picture drawn from such a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.notebook.widget.remote_models import RemoteModels
from swiftai_nb.notebook.wire import picture_snapshot
from swiftai_nb.providers.openai import OpenAIImagesProvider
from tests.providers.openai.images_server import ImagesServer
from tests.waiting import wait_until


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    session = Session()
    yield session
    session.close()


def rows(remote: RemoteModels) -> list[tuple[str, str, str]]:
    return [(r["id"], r["name"], r["state_text"]) for r in remote.entries() if r["engine"] == "openai"]


def test_no_row_without_a_key_or_a_server(session: Session) -> None:
    assert rows(RemoteModels(session, changed=lambda: None)) == []


def test_openai_has_a_row_where_there_is_a_key(session: Session) -> None:
    session.add_generator("openai", OpenAIImagesProvider(api_key="sk-test"))
    assert rows(RemoteModels(session, changed=lambda: None)) == [
        ("gpt-image-2.5-flare", "gpt-image-2.5-flare", "OpenAI")
    ]


def test_a_server_is_asked_once_what_it_serves(session: Session, images_server: ImagesServer) -> None:
    images_server.models = ["tiny", "large"]
    session.add_generator("openai", OpenAIImagesProvider(images_server.origin))
    changes: list[str] = []
    remote = RemoteModels(session, changed=lambda: changes.append(""))
    host = images_server.origin.removeprefix("http://")
    assert rows(remote) == [("", f"The model of {host}", host)]
    wait_until(lambda: bool(changes))
    assert rows(remote) == [("tiny", "tiny", host), ("large", "large", host)]
    assert [one.method for one in images_server.sent] == ["GET"]


def test_a_server_without_a_list_still_has_a_row(session: Session, images_server: ImagesServer) -> None:
    images_server.models = None
    session.add_generator("openai", OpenAIImagesProvider(images_server.origin))
    remote = RemoteModels(session, changed=lambda: None)
    assert len(rows(remote)) == 1
    wait_until(lambda: bool(images_server.sent))
    assert [row[0] for row in rows(remote)] == [""]


def test_the_widget_draws_at_a_server_and_its_picture_is_reused_there(
    session: Session, images_server: ImagesServer
) -> None:
    session.add_generator("openai", OpenAIImagesProvider(images_server.origin))
    widget = ImagineWidget("a fox", session=session, engine="openai")
    try:
        assert (widget.model, widget.engine) == ("", "openai")
        widget.generate(seed=1).result(30)
        snapshot: dict[str, Any] = dict(picture_snapshot(session.history.newest(1)[0]))
        assert snapshot["engine"] == "openai"
        assert "--engine openai" in snapshot["cell"]
        assert widget.generate(engine=snapshot["engine"], model=snapshot["model"]).result(30)
        assert len(images_server.posts) == 2
    finally:
        widget.close()
