"""DiffusionKit's worker, run by an interpreter that has it; see `engine.diffusionkit.process`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swiftai_nb.engine.child.start import serve_parent

if TYPE_CHECKING:
    from swiftai_nb.engine.child.serve import EngineHost


def main() -> None:
    """Serves the kernel that started this process until it is gone."""
    serve_parent(_make_host)


def _make_host(started_s: float) -> EngineHost:
    from swiftai_nb.guests.diffusionkit.child.host import make_host

    return make_host(started_s=started_s)


if __name__ == "__main__":
    main()
