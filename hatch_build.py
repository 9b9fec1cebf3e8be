"""Compiles the CPU kernels while the package is built; without a C compiler the package is pure."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "swiftai_nb/core/cpu_kernels.py"
LIBRARIES = "swiftai_nb/diffusion/cpu/native/*.so"


class KernelsBuildHook(BuildHookInterface[Any]):
    """`SWIFTAI_CPU_KERNELS=off` makes the pure wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles; a wheel with libraries is one of this platform, of any Python version."""
        if self.target_name != "wheel" or os.environ.get("SWIFTAI_CPU_KERNELS", "") == "off":
            return
        spec = importlib.util.spec_from_file_location("build_kernels", Path(self.root, MODULE))
        assert spec is not None
        assert spec.loader is not None
        kernels = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = kernels  # dataclasses look their module up
        spec.loader.exec_module(kernels)
        try:
            built = kernels.build()
        except kernels.BuildError as error:
            self.app.display_warning(f"without compiled CPU kernels: {error}")
            return
        self.app.display_info(f"compiled {', '.join(path.name for path in built)}")
        if version != "editable":
            build_data["artifacts"].append(LIBRARIES)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
