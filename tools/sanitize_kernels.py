"""Runs the CPU kernels' tests under a sanitizer: `python tools/sanitize_kernels.py address|undefined|thread`.

The kernels are compiled anew with the sanitizer, the tests run with its library preloaded, and the usual
kernels are compiled again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from swiftai_nb.core import cpu_kernels

LIBRARIES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
# Python itself leaks by intention, and NumPy's OpenBLAS is not built for the thread sanitizer.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=66",
}
TESTS = ("tests/diffusion/test_native.py", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler")


def main() -> int:
    """The tests' exit status."""
    sanitizer = sys.argv[1]
    compiler = os.environ.get("CC", "cc")
    asked = [compiler, f"-print-file-name={LIBRARIES[sanitizer]}"]
    library = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    try:
        cpu_kernels.build(extra_options=(f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-O1", "-g"))
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": str(library.resolve())}
        command = [sys.executable, "-m", "pytest", *TESTS]
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        cpu_kernels.build()


if __name__ == "__main__":
    sys.exit(main())
