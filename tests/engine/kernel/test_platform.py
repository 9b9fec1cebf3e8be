"""Whether the local engine can run, found out without importing MLX."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from swiftai_nb.core.errors import UnsupportedPlatformError
from swiftai_nb.engine.kernel import platform

ROOT = Path(__file__).parents[3]


def test_mlx_is_found_on_this_machine():
    assert platform.local_engine_obstacle() is None


def test_a_users_mlx_beside_the_notebook_is_not_taken_for_mlx(tmp_path):
    (tmp_path / "mlx.py").write_text("raise RuntimeError('the wrong module')")
    code = (
        "import sys\n"
        "sys.path.insert(0, '')\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from swiftai_nb.engine.kernel.platform import local_engine_obstacle\n"
        "assert local_engine_obstacle() is None\n"
        "from swiftai_nb.engine.kernel.client import process_client\n"
        "from swiftai_nb.engine.messages import AskStatus\n"
        "client = process_client()\n"
        "client.submit(AskStatus()).result(60)\n"
        "client.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=90)


def test_a_machine_without_mlx_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(platform, "find_child_module", lambda _name: None)
    obstacle = platform.local_engine_obstacle()
    assert isinstance(obstacle, UnsupportedPlatformError)
    assert obstacle.hint


def test_the_device_is_known_without_importing_mlx():
    assert importlib.import_module("mlx.core").default_device().type.name in ("cpu", "gpu")
    assert platform.expected_device() in ("metal", "cuda", "cpu")
