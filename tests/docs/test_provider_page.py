"""The provider of docs/add-a-provider.md: taken from the page, installed, and put to use."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.request import GenerationRequest
from tests.contract_suite.image_generator import ImageGeneratorContract
from tests.docs.pages import DOCS, blocks

PAGE = (DOCS / "add-a-provider.md").read_text("utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page's module, importable and announced as pip would have left it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "waves.py").write_text(blocks(PAGE, "python")[0], "utf-8")
    name, target = re.findall(r'^(\w+) = "([\w:]+)"$', blocks(PAGE, "toml")[0], re.MULTILINE)[0]
    info = folder / "waves-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waves\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[swiftai_nb.providers]\n{name} = {target}\n")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield importlib.import_module("waves")
    sys.path.remove(str(folder))
    del sys.modules["waves"]


class TestWavesProvider(ImageGeneratorContract):
    long = ImageGenerationConfig(width=32, height=32, steps=1000, seed=7)

    @pytest.fixture
    def generator(self, installed: Any) -> Any:
        return installed.WavesProvider()


def test_the_magic_finds_it_by_its_entry_point(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    line = next(b for b in blocks(PAGE, "") if b.startswith("%imagine")).strip().removeprefix("%imagine ")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("SWIFTAI_HOME", str(tmp_path))
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        shell.run_line_magic("load_ext", "swiftai_nb")
        pictures = shell.run_line_magic("imagine", f"{line} --quiet")
        assert (pictures.recipe.engine, pictures.recipe.prompt) == ("waves", "the sea at night")
        assert (pictures.seed, pictures.pil.size) == (7, (160, 96))
        shell.user_ns["sea"] = pictures
        again = shell.run_line_magic("imagine", "--from sea --quiet")
        assert (again.recipe.engine, again.only.data) == ("waves", pictures.only.data)
        shell.run_line_magic("unload_ext", "swiftai_nb")
    finally:
        InteractiveShell.clear_instance()


def test_the_session_takes_it_without_a_package(installed: Any) -> None:
    from swiftai_nb.notebook.session import close_session, get_session

    try:
        get_session().add_generator("waves", installed.WavesProvider())
        config = ImageGenerationConfig(seed=3)
        job = get_session().submit(GenerationRequest.of("a wave", config, engine="waves"))
        assert job.wait(60)
        assert job.images[0].seed == 3
    finally:
        close_session()


def test_the_page_names_only_what_the_contract_is() -> None:
    assert "class TestWavesProvider(ImageGeneratorContract):" in blocks(PAGE, "python")[-1]
