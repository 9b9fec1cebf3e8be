"""What every measured process does, ours and diffusers' alike; scripts without the package `import child`."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def quiet() -> None:
    """Raised priority where that is permitted; the parent gave us a session of our own."""
    try:
        Path("/proc/self/autogroup").write_text("-15")
        os.nice(-5)
    except OSError:
        pass


def peak_bytes(process: int | str = "self") -> int:
    """The largest resident memory of a process, in bytes; outside Linux always of this one.

    Linux's `ru_maxrss` begins with that of the process that started this one, so it is read elsewhere there.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
