"""A cell is decided once: one plan for each distinct setting, one model look-up, no file read twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Runs in a process of its own: an audit hook cannot be removed, and the kernel must be cold.
PROBE = """
import json, os, sys
counts = {"plans": 0, "look-ups": 0, "opened": {}}
home = os.environ["SWIFTAI_HOME"]

def audit(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(home):
        name = os.path.relpath(arguments[0], home)
        counts["opened"][name] = counts["opened"].get(name, 0) + 1

def counted(owner, name, key):
    function = getattr(owner, name)
    def count(*arguments, **options):
        counts[key] += 1
        return function(*arguments, **options)
    setattr(owner, name, count)

from IPython.core.interactiveshell import InteractiveShell
from swiftai_nb.providers.mlx import MLXImageProvider
from swiftai_nb.registry.registry import DiffusionModelRegistry
counted(MLXImageProvider, "_build_plan", "plans")
counted(DiffusionModelRegistry, "resolve", "look-ups")
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "swiftai_nb")
sys.addaudithook(audit)
report = []
for line in sys.argv[1:]:
    counts.update({"plans": 0, "look-ups": 0, "opened": {}})
    shell.run_cell(line).raise_error()
    report.append({"line": line, **counts})
shell.run_line_magic("unload_ext", "swiftai_nb")
print("REPORT" + json.dumps(report))
"""

QUICK = "a fox --engine local --steps 1 --size 64x64"


def run_cells(home: Path, *lines: str) -> list[dict[str, Any]]:
    environment = {**os.environ, "SWIFTAI_HOME": str(home), "IPYTHONDIR": str(home / "ipython")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *lines],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report: list[dict[str, Any]] = json.loads(done.stdout.rpartition("REPORT")[2])
    return report


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with settings in it, so that there is something to read."""
    from swiftai_nb.registry.registry import DiffusionModelRegistry

    home = tmp_path_factory.mktemp("home")
    DiffusionModelRegistry(home=home).default_model = "emoji-mini"
    return home


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, dict[str, Any]]:
    lines = [
        f"%imagine {QUICK}",
        f"%imagine {QUICK} --count 4",
        f"%imagine {QUICK} --grid seed=1-3",
        f"%imagine {QUICK} --grid guidance=1,2 seed=1,2",
        f"%imagine {QUICK} --dry-run",
        f"%imagine {QUICK} --size wide",
        "%imagine a fox --steps 1",
    ]
    return {one["line"]: one for one in run_cells(home, *lines)}


@pytest.mark.parametrize(
    ("line", "plans"),
    [
        (f"%imagine {QUICK}", 1),
        (f"%imagine {QUICK} --count 4", 1),
        (f"%imagine {QUICK} --grid seed=1-3", 1),
        (f"%imagine {QUICK} --grid guidance=1,2 seed=1,2", 2),
        (f"%imagine {QUICK} --dry-run", 1),
        (f"%imagine {QUICK} --size wide", 1),
        ("%imagine a fox --steps 1", 1),
    ],
)
def test_a_cell_is_planned_once_for_each_distinct_setting(
    report: dict[str, dict[str, Any]], line: str, plans: int
) -> None:
    assert report[line]["plans"] == plans
    assert report[line]["look-ups"] == plans


def test_no_settings_file_is_read_twice_in_one_cell(report: dict[str, dict[str, Any]]) -> None:
    for line, counts in report.items():
        settings = {name: n for name, n in counts["opened"].items() if name.endswith(".json")}
        assert all(times == 1 for times in settings.values()), (line, settings)
