"""Whose turn it is in a lane: one picture at a time, in order, and nobody starves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

FOREGROUND_RUN = 2  # foreground pictures in a row while a background job waits


@dataclass(eq=False)
class Slot:
    """One job's place in the order.

    Attributes:
        turns: where it queues.
        is_background: whether nobody waits for it.
        serial: its arrival.
        granted: resolved when it may go; None while it does not wait.
    """

    turns: FairSlots
    is_background: bool
    serial: int
    granted: asyncio.Future[None] | None = field(default=None)
    is_going: bool = False

    async def yield_slot(self) -> None:
        """Between two pictures: whoever comes before this job now goes first."""
        self.turns.wait_again(self)
        await self.turns.granted(self)


class FairSlots:
    """Hands out up to `width` turns at a time; for one event loop.

    Earlier jobs go before later ones, foreground ones before background ones, except that after two
    foreground pictures a waiting background job gets one.

    Args:
        width: turns at a time.
    """

    def __init__(self, width: int) -> None:
        self._free = width
        self._waiting: list[Slot] = []
        self._arrivals = 0
        self._foreground_run = 0

    @asynccontextmanager
    async def of(self, *, is_background: bool) -> AsyncIterator[Slot]:
        """Waits for the first turn, and gives the last one back at the end."""
        self._arrivals += 1
        turn = Slot(self, is_background, self._arrivals)
        self._wait(turn)
        self._hand_out()
        try:
            await self.granted(turn)
            yield turn
        finally:
            if turn.is_going:
                self._give_back(turn)

    def wait_again(self, turn: Slot) -> None:
        """Gives a turn back and queues for the next in one step, so that no later job slips in."""
        self._wait(turn)
        self._give_back(turn)

    async def granted(self, turn: Slot) -> None:
        """Waits for a queued turn; a cancelled wait gives up its place."""
        if turn.granted is None:
            return
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _wait(self, turn: Slot) -> None:
        turn.granted = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)

    def _give_back(self, turn: Slot) -> None:
        turn.is_going = False
        self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free > 0 and self._waiting:
            turn = self._next()
            self._waiting.remove(turn)
            self._foreground_run = 0 if turn.is_background else self._foreground_run + 1
            self._free -= 1
            turn.is_going = True
            if turn.granted is not None and not turn.granted.done():
                turn.granted.set_result(None)

    def _next(self) -> Slot:
        background = [turn for turn in self._waiting if turn.is_background]
        foreground = [turn for turn in self._waiting if not turn.is_background]
        is_their_turn = not foreground or self._foreground_run >= FOREGROUND_RUN
        candidates = background if background and is_their_turn else foreground
        return min(candidates, key=lambda turn: turn.serial)
