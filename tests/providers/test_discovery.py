"""Finding providers by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swiftai_nb.core.errors import InvalidInputError, ProviderUnavailableError
from swiftai_nb.core.generator import ImageGenerator
from swiftai_nb.providers import discovery
from swiftai_nb.testing import FakeGenerator

PLUGIN = """
from swiftai_nb.testing import FakeGenerator
def make(**options): return FakeGenerator(**options)
def make_nothing(): return 42
def make_trouble(): raise RuntimeError("no license file")
"""
ENTRY_POINTS = """[swiftai_nb.providers]
fake = fake_plugin:make
nothing = fake_plugin:make_nothing
trouble = fake_plugin:make_trouble
gone = no_such_module:make
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    info = tmp_path / "fake_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "fake_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_built_in_names_come_first(plugin):
    others = ("diffusionkit", "fake", "gone", "nothing", "trouble")
    assert discovery.names() == ("mlx", "huggingface", "openai", *others)
    assert discovery.plugin_names() == others


def test_the_kind_of_a_provider_decides_where_its_jobs_run():
    from swiftai_nb.notebook.session import Session

    class Remote(FakeGenerator):
        kind = "cloud"

    session = Session()
    session.add_generator("fake", FakeGenerator())
    session.add_generator("remote", Remote())
    try:
        assert not session.is_cloud("fake")
        assert session.is_cloud("remote")
        assert session.is_cloud("huggingface")
    finally:
        session.close()


def test_listing_names_imports_no_provider():
    code = (
        "import sys\nfrom swiftai_nb.providers import discovery\ndiscovery.names()\n"
        "bad = {'mlx', 'huggingface_hub', 'swiftai_nb.providers.mlx', 'swiftai_nb.providers.huggingface'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_built_in_provider_is_made_by_name():
    generator = discovery.create("mlx", isolation="thread")
    assert isinstance(generator, ImageGenerator)
    generator.close()


def test_a_third_partys_provider_is_made_with_options(plugin):
    generator = discovery.create("fake", default_steps=9)
    assert isinstance(generator, FakeGenerator)
    assert generator.default_steps == 9


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("mlz", {}, InvalidInputError, "no provider named 'mlz'"),
        ("fake", {"color": 1}, InvalidInputError, "color"),
        ("nothing", {}, ProviderUnavailableError, "int, which is not an ImageGenerator"),
        ("trouble", {}, ProviderUnavailableError, "no license file"),
        ("gone", {}, ProviderUnavailableError, "cannot be imported"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(plugin, name, options, kind, words):
    with pytest.raises(kind, match=words) as caught:
        discovery.create(name, **options)
    assert caught.value.hint


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(InvalidInputError) as caught:
        discovery.create("hugingface")
    assert "'huggingface'" in caught.value.hint
