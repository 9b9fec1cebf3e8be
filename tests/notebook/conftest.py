"""A shell of our own, the fake engine in its session, and patient property tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from swiftai_nb.testing import FakeGenerator
from tests.providers.openai.images_server import ImagesServer

# Busy machines are slow, and a test that fails only sometimes helps nobody.
settings.register_profile("patient", deadline=None, derandomize=True)
settings.load_profile("patient")


@pytest.fixture
def fake() -> FakeGenerator:
    """The engine that `shell` draws with."""
    return FakeGenerator()


@pytest.fixture
def images_server() -> Iterator[ImagesServer]:
    """A server with OpenAI's Images API."""
    server = ImagesServer()
    yield server
    server.close()


@pytest.fixture
def shell(fake: FakeGenerator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An IPython shell (no kernel) with the extension loaded and the fake engine chosen."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from swiftai_nb.notebook.session import close_session, get_session

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    InteractiveShell.clear_instance()
    own = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    own.run_line_magic("load_ext", "swiftai_nb")
    get_session().add_generator("fake", fake)
    own.run_line_magic("config", "Imagine.engine = 'fake'")
    yield own
    own.run_line_magic("unload_ext", "swiftai_nb")
    close_session()
    InteractiveShell.clear_instance()
