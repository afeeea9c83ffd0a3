"""The ways between the parts: every call takes its time, and can be lost on the way there or back.

Owns: `Wire`, by which processes reach what is outside of them, and `Odds`, how often what goes
wrong. Always holds: a call that has arrived is carried out, whatever became of its caller since; a
killed process reaches nobody; nothing remote is called while a transaction is open (ADR-0002).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from services.chassis.errors import ModelyardError, Unavailable
from services.chassis.transaction_mark import in_transaction
from tests.support.sim_loop import current_process, outside

T = TypeVar("T")


class Violation(AssertionError):
    """Something that always holds did not."""


@dataclass(slots=True)
class Odds:
    """How likely a call is to suffer what; all of it is nothing once the faults have stopped."""

    late: float = 0.0
    """It takes up to `late_s_max` there, and back."""
    lost_there: float = 0.0
    """It never arrives; the caller hears nothing."""
    lost_back: float = 0.0
    """It is carried out; the caller hears nothing."""
    late_s_max: float = 3.0
    is_cut_off: bool = False
    """Nothing that leaves the machine arrives."""

    def stop(self) -> None:
        """Let nothing go wrong any more."""
        self.late = self.lost_there = self.lost_back = 0.0


class Wire:
    """The way to one part; `patience_s` is how long its callers wait for an answer.

    One that is `is_inside` does not leave the machine.
    """

    def __init__(
        self,
        to: str,
        chance: Random,
        odds: Odds,
        *,
        patience_s: float,
        is_database: bool = False,
        is_inside: bool = False,
    ) -> None:
        self._to = to
        self._chance = chance
        self._odds = odds
        self._patience_s: Final = patience_s
        self._is_database = is_database
        self._is_inside = is_inside

    async def call(self, act: Callable[[], T]) -> T:
        """Let something be done at the other end; return or raise what comes of it.

        Raises Unavailable when no answer comes in time: it may have been done, or may be yet.
        """
        if in_transaction.get() and not self._is_database:
            raise Violation(f"{self._to} is called inside a transaction")
        fate = self._chance.random()
        self._require_alive()
        is_cut_off = self._odds.is_cut_off and not self._is_inside
        if (
            not is_cut_off
            and fate >= self._odds.late + self._odds.lost_there + self._odds.lost_back
        ):
            await asyncio.sleep(0)
            self._require_alive()
            answer = outside(act)
            await asyncio.sleep(0)
            return answer
        return await self._call_badly(act, fate, is_cut_off=is_cut_off)

    async def _call_badly(self, act: Callable[[], T], fate: float, *, is_cut_off: bool) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        is_lost_there = is_cut_off or fate < self._odds.lost_there
        is_lost_back = not is_lost_there and fate < self._odds.lost_there + self._odds.lost_back

        def arrive() -> None:
            done: asyncio.Future[T] = loop.create_future()
            try:
                done.set_result(act())
            except ModelyardError as refused:
                done.set_exception(refused)
            if not is_lost_back:
                loop.call_later(self._delay_s(), deliver, done)
            done.exception()  # it was looked at, though nobody may hear of it

        def deliver(done: asyncio.Future[T]) -> None:
            if answer.done():
                return
            if (error := done.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        if not is_lost_there:
            outside(lambda: loop.call_later(self._delay_s(), arrive))
        try:
            async with asyncio.timeout(self._patience_s):
                return await answer
        except TimeoutError:
            raise Unavailable(self._to) from None

    def _delay_s(self) -> float:
        # Most waits are short, a few are long: both sides of every time-out are met.
        return self._odds.late_s_max * self._chance.random() ** 3

    def _require_alive(self) -> None:
        process = current_process()
        if process is not None and process.is_dead:
            raise asyncio.CancelledError
