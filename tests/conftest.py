"""Order of the suite, what pytest-xdist (`-n 2 --dist loadfile`) keeps in one process, the simulated GPU.

With SWIFTAI_SIMULATED_GPU=1 this process takes the branches for GPUs and computes with MLX's CPU kernels:
dtypes, shapes and branches are tested, Metal's and CUDA's kernels are not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

BROWSER = Path(__file__).parent / "browser"
IS_GPU_SIMULATED = os.environ.get("SWIFTAI_SIMULATED_GPU") == "1"


def pytest_configure(config: pytest.Config) -> None:
    """Simulates the GPU before anything asks for the device."""
    if IS_GPU_SIMULATED:
        import mlx.core as mx

        mx.default_device = lambda: mx.Device(mx.gpu)
        mx.disable_compile()  # it would start a C++ compiler for every operation


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the CPU's own paths have nothing to test on a GPU."""
    if IS_GPU_SIMULATED and item.get_closest_marker("cpu") is not None:
        pytest.skip("about the CPU's own paths")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Browser tests last in one process; first in several, where the longest has to start first."""
    is_distributed = hasattr(config, "workerinput")
    items.sort(key=lambda item: (BROWSER in item.path.parents) != is_distributed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a process, as their fixtures do; those of a page share one server and one browser."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests/browser" if file.startswith("tests/browser/") else file

    return Scheduler(config, log) if config.getoption("dist") == "loadfile" else None
