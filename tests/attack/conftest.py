"""What the attacks leave on this disk is removed with the session."""

from __future__ import annotations

from tests.attack.limits import remove_scratch_folders


def pytest_sessionfinish() -> None:
    remove_scratch_folders()
