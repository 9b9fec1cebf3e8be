"""The user's own state: a file that anything may have written costs itself, never the cell."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from swiftai_nb.core.errors import AIError, InvalidModelFilesError
from swiftai_nb.downloads.cache_files import safe_join
from swiftai_nb.jobs.timings import TimingKey, Timings
from swiftai_nb.registry.model_tables import ModelCard, make_table
from swiftai_nb.registry.registry import DiffusionModelRegistry
from swiftai_nb.registry.user_config import UserConfig
from tests.attack.limits import attack, only, scratch_folder
from tests.attack.strategies import MODELS_JSON, ODD, json_like

MANIFEST = {"version": 1, "files": [{"path": "a/b.json", "size_bytes": 3, "oid": "0" * 40}]}
KEY = TimingKey("m", 64, 64)


@attack
@given(json_like(MODELS_JSON))
def test_models_json_costs_at_most_its_own_entries(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "models.json").write_bytes(data)
        registry = DiffusionModelRegistry(cache_dir=home / "hub", home=home)
        with only(AIError, target="models.json"):
            assert registry.resolve("emoji-mini").info.bundled
            registry.resolve(None)
            table = make_table(registry)
            assert str(table)
            assert table._repr_html_()
            for info in registry.available_models:
                if info.is_custom:
                    str(ModelCard.of(registry, info.id))


@attack
@given(json_like(MANIFEST))
def test_a_manifest_names_files_inside_the_snapshot(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        config = UserConfig(Path(name))
        (config.home / "manifests").mkdir()
        (config.home / "manifests" / "a--b@main.json").write_bytes(data)
        with only(target="download records"):
            for path in config.manifest("a/b", "main"):
                assert ".." not in Path(path).parts
                assert not Path(path).is_absolute()


@attack
@given(
    st.lists(st.sampled_from(["..", ".", "a", "/", "C:", "\\", "\0", "a" * 300, "con", "é", ""]), max_size=4),
    st.sampled_from(["/", "//", "\\"]),
)
def test_a_path_from_elsewhere_stays_inside(parts: list[str], joint: str) -> None:
    folder = Path("/cache/snapshots/0")
    with only(InvalidModelFilesError, target="paths"):
        assert folder in safe_join(folder, joint.join(map(str, parts))).parents


_HOME = scratch_folder()


def _template() -> Path:
    path = _HOME / "timings.sqlite"
    if not path.exists():
        timings = Timings(path, machine="a")
        timings.record(KEY, steps=2, denoising_s=1.0, fixed_s=0.1)
        timings.record_load("m", 1.0)
    return path


@attack
@given(
    st.sampled_from(["timings", "loads"]),
    st.sampled_from(["pixels", "guided", "step_s", "fixed_s", "load_s"]),
    ODD | st.binary(max_size=4),
)
def test_timings_of_any_type_cost_only_the_estimate(table: str, column: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(shutil.copy(_template(), name))
        db = sqlite3.connect(path)
        with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeError):
            db.execute(f"UPDATE {table} SET {column} = ?", (value,))
        db.commit()
        db.close()
        timings = Timings(path, machine="a")
        with only(target="timings"):
            estimate_s = timings.estimate_s(KEY, steps=2, cold=True)
            assert estimate_s is None or 0 <= estimate_s < float("inf")
            timings.record(KEY, steps=2, denoising_s=1.0, fixed_s=0.1)
            timings.record_load("m", 1.0)
            assert timings.estimate_s(KEY, steps=2, cold=True) is not None
