"""A generator for batches that leaves traces, so that tests can count who made what."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from swiftai_nb.core.errors import EngineDiedError, InvalidInputError
from swiftai_nb.testing import FakeGenerator


class TracingGenerator(FakeGenerator):
    """Writes a file per start and per picture begun; some prompts kill their process or fail once."""

    def __init__(self, folder: str, step_duration_s: float = 0.0) -> None:
        super().__init__(step_duration_s=step_duration_s)
        self.folder = Path(folder)
        self.note("made")

    def note(self, word: str) -> None:
        (self.folder / f"{word}-{os.getpid()}-{os.urandom(4).hex()}").touch()

    async def generate_image(self, prompt, **options):
        self.note("began")
        first = self.folder / f"first-{prompt.replace(' ', '-')}"
        if prompt.startswith(("kill", "engine dies")) and not first.exists():
            first.touch()
            if prompt.startswith("engine dies"):
                raise EngineDiedError("the engine was ended by SIGKILL")
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt.startswith("always dies"):
            self.note("tried")
            raise EngineDiedError("the engine was ended by SIGKILL")
        if prompt.startswith("bad"):
            self.note("tried")
            raise InvalidInputError("bad input", hint="good input")
        return await super().generate_image(prompt, **options)
