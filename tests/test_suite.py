"""The suite keeps its own rules: it mirrors the package, waits with `tests/waiting.py`, and CONTRIBUTING is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
# Folders of tests that are no package's: hostile input to all of them, what a user sees, what authors of providers run,
# what pages claim, recorded references.
OF_THEIR_OWN = {"attack", "browser", "contract_suite", "docs", "diffusion/parity"}
# Packages whose tests stand in the folder above: they are met through its public functions.
THROUGH_THE_PACKAGE_ABOVE = {
    "downloads/worker",
    "guests/diffusionkit/child",
    "diffusion/cpu",
    "diffusion/cpu/native",
    "diffusion/models",
    "diffusion/pipelines",
    "diffusion/schedulers",
    "diffusion/tokenizers",
    "diffusion/weights",
}
WAITS = {"sleep", "wait_for_timeout"}
# The project's own paths in CONTRIBUTING; a source distribution leaves some of these folders out.
PATH = re.compile(r"`((?:swiftai_nb|tests|docs|js|tools|training|benchmarks|notebooks)/[\w./-]*)`")


def packages_below(folder: Path) -> set[str]:
    return {path.parent.relative_to(folder).as_posix() for path in folder.rglob("__init__.py")} - {"."}


def test_a_folder_of_tests_for_each_package() -> None:
    packages, folders = packages_below(ROOT / "swiftai_nb"), packages_below(TESTS)
    assert packages - folders == packages & THROUGH_THE_PACKAGE_ABOVE
    assert folders - packages == OF_THEIR_OWN


def bare_waits(source: str) -> list[int]:
    """Lines that call a sleep without a reason; 0 seconds only lets others run."""
    lines, found = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        has_reason = any("# sleep: " in line for line in lines[node.lineno - 1 : node.end_lineno])
        if name in WAITS and not is_zero and not has_reason:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_waits_with_a_bare_sleep(path: Path) -> None:
    assert bare_waits(path.read_text(encoding="utf-8")) == [], (
        "use tests/waiting.py, or say why: # sleep: ..."
    )


def test_a_bare_sleep_is_found() -> None:
    source = (
        "import time\ntime.sleep(1)\ntime.sleep(2)  # sleep: slow server\nawait asyncio.sleep(0)\nsleep(3)"
    )
    assert bare_waits(source) == [2, 5]


def test_paths_in_contributing_exist() -> None:
    paths = PATH.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(paths) > 30
    missing = [p for p in paths if (ROOT / p.split("/")[0]).exists() and not (ROOT / p).exists()]
    assert missing == []


def test_no_test_has_a_second_chance() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'filterwarnings = ["error"]' in project
    assert not re.search(r"rerun|flaky|retry", project)
