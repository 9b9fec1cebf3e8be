"""A session and a widget in folders of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swiftai_nb.notebook.session import Session
from swiftai_nb.notebook.widget.imagine_widget import ImagineWidget
from swiftai_nb.testing import FakeGenerator


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def generator() -> FakeGenerator:
    """The local engine of `session`."""
    return FakeGenerator()


@pytest.fixture
def session(generator: FakeGenerator) -> Iterator[Session]:
    session = Session()
    session.add_generator("mlx", generator)
    yield session
    session.close()


@pytest.fixture
def widget(session: Session) -> Iterator[ImagineWidget]:
    widget = ImagineWidget(session=session)
    yield widget
    widget.close()
