"""Fair scheduling of jobs on one event loop, so that no job starves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MAX_FOREGROUND_RUN = 2  # foreground pictures in a row while a background job waits


@dataclass(eq=False)
class Slot:
    """A job's place in the order.

    Attributes:
        slots: where it queues.
        is_background: whether no cell waits for it.
        serial: its place in the order of arrival.
        granted: resolved when it may run; None before it first waits.
        is_running: whether it holds a slot now.
    """

    slots: FairSlots
    is_background: bool
    serial: int
    granted: asyncio.Future[None] | None = field(default=None)
    is_running: bool = False

    async def yield_slot(self) -> None:
        """Between two pictures: jobs that come before this one run first."""
        self.slots.requeue(self)
        await self.slots.wait_granted(self)


class FairSlots:
    """Grants up to `concurrency` slots at a time; for one event loop.

    Earlier jobs go before later ones and foreground jobs before background ones, except that after two
    foreground pictures a waiting background job gets one.

    Args:
        concurrency: slots that are granted at a time.
    """

    def __init__(self, concurrency: int) -> None:
        self._free = concurrency
        self._waiting: list[Slot] = []
        self._arrivals = 0
        self._foreground_run = 0

    @asynccontextmanager
    async def acquire(self, *, is_background: bool) -> AsyncIterator[Slot]:
        """Waits for a slot and releases it at the end."""
        self._arrivals += 1
        slot = Slot(self, is_background, self._arrivals)
        self._enqueue(slot)
        self._grant_free()
        try:
            await self.wait_granted(slot)
            yield slot
        finally:
            if slot.is_running:
                self._release(slot)

    def requeue(self, slot: Slot) -> None:
        """Releases a slot and queues for it again in one step, so that no later job gets it in between."""
        self._enqueue(slot)
        self._release(slot)

    async def wait_granted(self, slot: Slot) -> None:
        """Waits for a queued slot; a cancelled wait leaves the queue."""
        if slot.granted is None:
            return
        try:
            await slot.granted
        except asyncio.CancelledError:
            if slot in self._waiting:
                self._waiting.remove(slot)
            raise

    def _enqueue(self, slot: Slot) -> None:
        slot.granted = asyncio.get_running_loop().create_future()
        self._waiting.append(slot)

    def _release(self, slot: Slot) -> None:
        slot.is_running = False
        self._free += 1
        self._grant_free()

    def _grant_free(self) -> None:
        while self._free > 0 and self._waiting:
            slot = self._next()
            self._waiting.remove(slot)
            self._foreground_run = 0 if slot.is_background else self._foreground_run + 1
            self._free -= 1
            slot.is_running = True
            if slot.granted is not None and not slot.granted.done():
                slot.granted.set_result(None)

    def _next(self) -> Slot:
        background = [slot for slot in self._waiting if slot.is_background]
        foreground = [slot for slot in self._waiting if not slot.is_background]
        is_background_due = not foreground or self._foreground_run >= MAX_FOREGROUND_RUN
        candidates = background if background and is_background_due else foreground
        return min(candidates, key=lambda slot: slot.serial)
