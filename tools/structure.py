"""The structure of the package in figures: `python tools/structure.py [--run] [--root DIR]`.

Without options it reads source text alone: lines and modules per package, modules with one importer,
import cycles (imports inside functions and under TYPE_CHECKING count), the longest files and functions.
`--run` also draws pictures in a fresh IPython shell and reports what one cell costs: package files entered
and loaded in the kernel, files loaded in kernel and engine together, plans made, model lookups, and how
often each settings file was opened.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "swiftai_nb"
SHOWN = 5
CELLS = {"%imagine a fox": "cold", "%imagine a fox --count 4": "warm, 4 pictures"}

# Runs in the measured shell. Names of functions differ between versions: all of either count.
PROBE = """
import json, os, sys, threading
package, cells = sys.argv[1], json.loads(sys.argv[2])
entered, plans, lookups, opened = set(), [0], [0], {}
PLANS = {"make_plan", "_make_plan"}
LOOKUPS = {"resolve", "resolve_info"}
def profile(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    path = code.co_filename
    if not path.startswith(package):
        return
    if code.co_name == "<module>":
        return
    entered.add(path)
    if code.co_name in PLANS:
        plans[0] += 1
    if code.co_name in LOOKUPS and path.endswith("registry.py"):
        lookups[0] += 1
def audit(event, arguments):
    home = os.environ["SWIFTAI_HOME"]
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(home):
        name = os.path.basename(arguments[0])
        opened[name] = opened.get(name, 0) + 1
sys.addaudithook(audit)
from IPython.core.interactiveshell import InteractiveShell
from pathlib import Path
import swiftai_nb.registry.registry
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "swiftai_nb")
report = {}
for cell in cells:
    entered.clear(); opened.clear(); plans[0] = lookups[0] = 0
    threading.setprofile(profile); sys.setprofile(profile)
    result = shell.run_cell(cell, silent=False)
    sys.setprofile(None); threading.setprofile(None)
    result.raise_error()
    loaded = [n for n in sys.modules if n.split(".")[0] == "swiftai_nb"]
    report[cell] = {"entered": len(entered), "loaded": len(loaded), "plans": plans[0],
                    "lookups": lookups[0], "opened": dict(opened)}
from swiftai_nb.notebook.session import close_session
close_session()
import asyncio
from swiftai_nb import MLXImageProvider
provider = MLXImageProvider(isolation="thread")
asyncio.run(provider.generate_image("a fox"))
provider.close()
both = [n for n in sys.modules if n.split(".")[0] == "swiftai_nb"]
report[cells[0]]["loaded with the engine"] = len(both)
print("REPORT" + json.dumps(report))
"""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file names in any import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full} if full in known else {node.module} & set(known)
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """(lines, name) of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def read_structure(root: Path) -> dict[str, Any]:
    """All figures that need no run."""
    known = modules(root)
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in known.items()}
    graph = {name: imports_of(path, known) - {name} for name, path in known.items()}
    importers = Counter(target for targets in graph.values() for target in targets)
    packages: dict[str, list[int]] = {}
    for name, count in lines.items():
        parts = name.split(".")
        package = (
            parts[1] if len(parts) > 2 or (known[name].name == "__init__.py" and len(parts) > 1) else "(top)"
        )
        packages.setdefault(package, []).append(count)
    code = [name for name in known if known[name].name not in ("__init__.py", "__main__.py")]
    return {
        "packages": {name: (sum(counts), len(counts)) for name, counts in sorted(packages.items())},
        "lines": sum(lines.values()),
        "modules": len(lines),
        "one_importer": sum(importers[name] == 1 for name in code),
        "cycles": cycles(graph),
        "files": sorted(((count, name) for name, count in lines.items()), reverse=True)[:SHOWN],
        "functions": sorted(
            (
                (size, f"{name}.{function}")
                for name, path in known.items()
                for size, function in functions(path)
            ),
            reverse=True,
        )[:SHOWN],
    }


def run_cells(root: Path) -> dict[str, Any]:
    """What a cold and a warm cell enter and open, in a shell of its own with an empty state folder."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(root), "SWIFTAI_HOME": home, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(root / PACKAGE), json.dumps(list(CELLS))],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=home,
        )
    for line in done.stdout.splitlines():
        if line.startswith("REPORT"):
            return dict(json.loads(line.removeprefix("REPORT")))
    raise SystemExit(done.stderr or done.stdout)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="a checkout")
    parser.add_argument("--run", action="store_true", help="draw pictures, too")
    options = parser.parse_args()
    root = options.root.resolve()
    found = read_structure(root)
    for name, (lines, count) in found["packages"].items():
        print(f"{name:<14}{lines:>7,} lines {count:>4} modules")
    print(f"{'total':<14}{found['lines']:>7,} lines {found['modules']:>4} modules")
    print(f"modules with one importer: {found['one_importer']}")
    print(f"import cycles: {len(found['cycles'])}")
    for cycle in found["cycles"]:
        print("   " + " <-> ".join(cycle))
    for title in ("files", "functions"):
        print(f"longest {title}:")
        for size, name in found[title]:
            print(f"   {size:>4} {name}")
    if options.run:
        for cell, figures in run_cells(root).items():
            print(f"{cell} ({CELLS[cell]}):")
            for name, value in figures.items():
                print(f"   {name}: {value}")


if __name__ == "__main__":
    main()
