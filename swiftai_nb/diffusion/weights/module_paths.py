"""Reaches into a module tree by dotted path; numbers index lists."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn


def find_module(module: nn.Module, path: str) -> Any:
    """The submodule (or list) at `path`.

    Raises:
        KeyError: no such path.
    """
    node: Any = module
    for part in path.split(".") if path else ():
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (IndexError, ValueError, KeyError):
            raise KeyError(path) from None
    return node


def has_path(module: nn.Module, path: str) -> bool:
    """Whether something stands at `path`."""
    try:
        find_module(module, path)
    except KeyError:
        return False
    return True


def assign(module: nn.Module, path: str, value: mx.array | nn.Module) -> None:
    """Puts a parameter or submodule at `path`."""
    owner_path, _, name = path.rpartition(".")
    owner = find_module(module, owner_path)
    owner[int(name) if isinstance(owner, list) else name] = value
