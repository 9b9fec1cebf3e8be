"""What shows the output of this cell: a notebook page, a tool that executes notebooks, or a terminal."""

from __future__ import annotations

import sys
from typing import Any


def shows_widgets(shell: Any) -> bool:
    """Whether the front end that sent this cell can be expected to show widgets and answer them.

    nbclient, papermill, nbconvert, nbval and console clients send a bare request: no metadata, and
    the user's name in its header. Notebook front ends do not.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    if "google.colab" in sys.modules:
        return True
    try:
        parent = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else {}
    except (LookupError, TypeError):
        return True
    is_bare = not parent.get("metadata") and bool(parent.get("header", {}).get("username"))
    return not is_bare


def is_notebook_page() -> bool:
    """`shows_widgets` of the running shell; False without IPython."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and shows_widgets(ipython.get_ipython())


def is_kernel_ending() -> bool:
    """Whether the running kernel is being shut down or restarted.

    It ends its children first, such as the engine: that is no failure of theirs.
    """
    ipython = sys.modules.get("IPython")
    kernel = None if ipython is None else getattr(ipython.get_ipython(), "kernel", None)
    return getattr(kernel, "_shutdown_message", None) is not None


def cell_number() -> int | None:
    """The number of the running cell; None outside IPython."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return None if shell is None else int(shell.execution_count)


def is_cell_value() -> bool:
    """Whether IPython is showing the value of a cell now."""
    from IPython.core.getipython import get_ipython

    hook = getattr(get_ipython(), "displayhook", None)
    # ipykernel's hook has a message while it shows a cell's value; the terminal's has a flag.
    return getattr(hook, "msg", None) is not None or bool(getattr(hook, "is_active", False))
