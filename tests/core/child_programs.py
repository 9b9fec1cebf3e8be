"""Programs that the tests of `core.child` run in a child process."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import time

from swiftai_nb.core.child import claim_standard_streams, exit_with_parent


def _send(writer: int, **data: object) -> None:
    os.write(writer, json.dumps(data).encode() + b"\n")


def main() -> int:
    """Does what the first argument says."""
    action, *arguments = sys.argv[1:]
    _, writer = claim_standard_streams()
    print("a library's message", flush=True)
    if action == "where":
        _send(
            writer,
            arguments=arguments,
            path=sys.path,
            random=random.__file__,
            found={name: importlib.util.find_spec(name) is not None for name in arguments},
            session=os.getsid(0) if hasattr(os, "getsid") else None,
        )
    elif action == "endless":
        exit_with_parent()
        _send(writer, pid=os.getpid())
        time.sleep(600)  # sleep: longer than the test; the parent ends it
    elif action == "stubborn":
        _send(writer, pid=os.getpid())
        while True:
            time.sleep(600)  # sleep: longer than the test; the parent ends it
    elif action == "fail":
        sys.stderr.write("x" * 10_000 + "\n" + "line\n" * 500 + "the last line\n\n")
        return 3
    return 0
