"""models.json: replaced in one step under a lock, read once, and never a reason for a cell to fail."""

from __future__ import annotations

import concurrent.futures
import errno
import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from swiftai_nb.model_files.variants import DiffusionVariant
from swiftai_nb.registry import user_config
from swiftai_nb.registry.model_info import ModelFile
from swiftai_nb.registry.model_tables import make_table
from swiftai_nb.registry.registry import DiffusionModelRegistry


@pytest.fixture
def registry(tmp_path):
    return DiffusionModelRegistry(home=tmp_path / "home", cache_dir=tmp_path / "cache")


def test_broken_choices_are_set_aside_and_everything_goes_on(registry, tmp_path):
    registry.add_repository("org/one", variant=DiffusionVariant.SD_15)
    path = registry.home / "models.json"
    path.write_text(path.read_text()[:40])
    assert registry.custom_models == ()
    assert registry.resolve().info.id == "emoji-mini"
    registry.add_repository("org/two", variant=DiffusionVariant.SD_15)
    assert [m.id for m in registry.custom_models] == ["org/two"]
    assert len(list(registry.home.glob("models.broken-*"))) == 1


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '{"entries": 3}', '{"entries": [3, {"id": "x"}], "default_model": 5}', "\x00\xff"],
)
def test_strange_choices_do_no_harm(registry, content):
    registry.home.mkdir(parents=True)
    (registry.home / "models.json").write_bytes(content.encode("latin-1"))
    assert registry.custom_models == ()
    assert registry.default_model is None


def test_two_kernels_adding_at_once_lose_nothing(registry):
    code = (
        "import sys\n"
        "from swiftai_nb.registry.registry import DiffusionModelRegistry\n"
        "from swiftai_nb.model_files.variants import DiffusionVariant\n"
        "r = DiffusionModelRegistry(home=sys.argv[1])\n"
        "for i in range(15): r.add_repository(f'org/{sys.argv[2]}{i}', variant=DiffusionVariant.SD_15)\n"
    )
    kernels = [subprocess.Popen([sys.executable, "-c", code, str(registry.home), name]) for name in "ab"]
    assert [k.wait(180) for k in kernels] == [0, 0]
    assert {m.id for m in registry.custom_models} == {f"org/{n}{i}" for n in "ab" for i in range(15)}
    assert [p.name for p in registry.home.iterdir() if p.name.startswith(".")] == []


def test_a_file_system_without_locks_does_not_wait_forever(registry, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    registry.add_repository("org/one", variant=DiffusionVariant.SD_15)
    assert registry.find("org/one").id == "org/one"


def test_a_lock_that_is_held_keeps_other_kernels_out_until_it_is_released(registry):
    registry.home.mkdir(parents=True)
    add = functools.partial(registry.add_repository, "org/one", variant=DiffusionVariant.SD_15)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(registry.home / "models.lock"):
            waiting = pool.submit(add)
            with pytest.raises(concurrent.futures.TimeoutError):  # Python 3.10 has its own class
                waiting.result(timeout=0.3)
            assert registry.custom_models == ()
        assert waiting.result(timeout=60).id == "org/one"


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ["x"]},
        {"id": ""},
        {"size_bytes": "7"},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"repository": 3},
        {"local_folder": ["x"]},
        {"local_folder": "a\0b"},
        {"variant": "sd-9"},
        {"variant": []},
        {"default_guidance_scale": "7"},
        {"aliases": "abc"},
        {"aliases": [3]},
        {"files": {}},
        {"files": [3]},
        {"files": [{"path": "../../outside"}]},
        {"files": [{"path": "/etc/passwd"}]},
        {"files": [{"path": "x", "size_bytes": "1"}]},
        {"bundled": 1},
    ],
)
def test_a_wrong_entry_is_left_out_and_the_others_stay(registry, change):
    for name in ("org/one", "org/two"):
        registry.add_repository(name, variant=DiffusionVariant.SD_15)
    path = registry.home / "models.json"
    stored = json.loads(path.read_text())
    stored["entries"][0] |= change
    path.write_text(json.dumps(stored))
    assert [m.id for m in registry.custom_models] == ["org/two"]
    assert registry.resolve().info.id == "emoji-mini"
    assert "org/two" in repr(make_table(registry))


def test_json_that_is_nested_too_deeply_is_a_broken_file(registry):
    registry.home.mkdir(parents=True)
    (registry.home / "models.json").write_text('{"entries": ' + "[" * 100_000)
    assert registry.custom_models == ()
    registry.add_repository("org/one", variant=DiffusionVariant.SD_15)
    assert len(list(registry.home.glob("models.broken-*"))) == 1


@pytest.mark.parametrize("names", [{"id": "emoji-mini"}, {"id": "Emoji-Mini"}, {"aliases": ["bundled"]}])
def test_no_entry_in_the_file_takes_the_name_of_the_bundled_model(registry, names):
    registry.add_repository("org/one", variant=DiffusionVariant.SD_15)
    path = registry.home / "models.json"
    stored = json.loads(path.read_text())
    stored["entries"][0] |= names
    path.write_text(json.dumps(stored))
    for name in (None, "emoji-mini", "bundled"):
        assert registry.resolve(name).info.bundled


def test_a_download_record_is_read_once_for_all_entries_of_its_repository(registry, monkeypatch):
    files = [ModelFile(f"{number}.json", 3) for number in range(20)]
    registry.user_config.record_manifest("org/one", "main", files)
    made = []
    read = user_config.files_from_list
    monkeypatch.setattr(user_config, "files_from_list", lambda entries: made.append(1) or read(entries))
    for _ in range(5):
        assert len(registry.user_config.manifest("org/one", "main")) == 20
    assert len(made) == 1


def test_models_json_is_parsed_once_and_again_when_it_changes(registry, monkeypatch):
    registry.add_repository("org/one", variant=DiffusionVariant.SD_15)
    parsed = []
    parse = user_config.parse_json
    monkeypatch.setattr(user_config, "parse_json", lambda text: parsed.append(text) or parse(text))
    user_config._read_version.cache_clear()
    for _ in range(5):
        registry.find("org/one")
        registry.resolve()
        assert registry.default_model is None
    assert len(parsed) == 1
    registry.add_repository("org/two", variant=DiffusionVariant.SD_15)
    assert [m.id for m in registry.custom_models] == ["org/one", "org/two"]
    registry.custom_models  # noqa: B018 - what the cache holds must not have been changed
    assert [m.id for m in registry.custom_models] == ["org/one", "org/two"]
