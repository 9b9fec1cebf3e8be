"""Start-up of two checkouts side by side: `python tools/compare.py OLD [NEW] [--turns N]`.

Fresh interpreters take turns, old and new: `import swiftai_nb`, `%load_ext swiftai_nb`, from there to the
first picture of the bundled model, and a second, warm picture. Prints medians, the ratio new / old, and the
modules each loads. Both run with this interpreter and its packages.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROBE = """
import json, sys, time
start = time.perf_counter()
import swiftai_nb
imported = time.perf_counter()
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = len(sys.modules)
ready = time.perf_counter()
shell.run_line_magic("load_ext", "swiftai_nb")
loaded = time.perf_counter()
modules = len(sys.modules) - before
def draw():
    begin = time.perf_counter()
    shell.run_cell("x = %imagine a fox in the snow --seed 7 --quiet").raise_error()
    return time.perf_counter() - begin
first, second = draw(), draw()
shell.run_line_magic("unload_ext", "swiftai_nb")
import resource
own, child = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
kernel_cpu_s, engine_cpu_s = (usage.ru_utime + usage.ru_stime for usage in (own, child))
print("FIGURES" + json.dumps({"import_s": imported - start, "load_ext_s": loaded - ready,
    "load_ext_modules": modules, "first_picture_s": first, "second_picture_s": second,
    "kernel_cpu_s": kernel_cpu_s, "engine_cpu_s": engine_cpu_s}))
"""


def measure(root: Path) -> dict[str, float]:
    """One fresh interpreter on a checkout, with an empty state folder."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(root), "SWIFTAI_HOME": home, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES"):
            return dict(json.loads(line.removeprefix("FIGURES")))
    raise SystemExit(done.stderr or done.stdout)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    roots = (options.old.resolve(), options.new.resolve())
    for root in roots:
        measure(root)  # byte code and file cache
    turns = [[measure(root) for root in roots] for _ in range(options.turns)]
    title = f"median of {options.turns}"
    print(f"{title:<20}{'old':>10}{'new':>10}{'new/old':>9}{'old best':>10}{'new best':>10}")
    for name in turns[0][0]:
        old, new = ([turn[side][name] for turn in turns] for side in (0, 1))
        middle = statistics.median(old), statistics.median(new)
        row = (*middle, middle[1] / middle[0], min(old), min(new))
        print(f"{name:<20}{row[0]:>10.3f}{row[1]:>10.3f}{row[2]:>9.2f}{row[3]:>10.3f}{row[4]:>10.3f}")


if __name__ == "__main__":
    main()
