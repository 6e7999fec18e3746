"""Operators' code: in threads of its own, with a deadline, its faults told apart from ours."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from lib.errors import InvalidRequest, Overloaded
from lib.workflow.endpoints.running import ForeignError, Runner, finish
from lib.workflow.template import TemplateError

NO_TIME_S = 0.05
LONG_S = 30.0


def raising(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


async def test_work_runs_beside_the_loop() -> None:
    """In another thread, that does not hold the process when it ends."""
    runner, seen = Runner(), list[threading.Thread]()
    assert await runner.run(lambda: seen.append(threading.current_thread()) or 7, limit_s=LONG_S, name="x") == 7
    assert seen[0] is not threading.main_thread()
    assert seen[0].daemon


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("colour"), "KeyError: 'colour'"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration("x"), "StopIteration: x"),
        (asyncio.CancelledError(), "CancelledError"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
async def test_faults_of_the_code_are_its_own(error: BaseException, text: str) -> None:
    """Whatever it raises ends the call, and nothing else."""
    with pytest.raises(ForeignError) as caught:
        await Runner().run(raising(error), limit_s=LONG_S, name="x")
    assert str(caught.value) == text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InvalidRequest("no"), TemplateError("no")])
async def test_errors_of_ours_pass(error: Exception) -> None:
    """They say what they mean already."""
    with pytest.raises(type(error)) as caught:
        await Runner().run(raising(error), limit_s=LONG_S, name="x")
    assert caught.value is error


async def test_endless_code_holds_its_seat_and_nobody_else() -> None:
    """Its caller is let go; when all seats are held so, the next is told; a seat that is free again serves."""
    runner, go_on = Runner(seats=1), threading.Event()
    with pytest.raises(TimeoutError):
        await runner.run(go_on.wait, limit_s=NO_TIME_S, name="endless")
    with pytest.raises(Overloaded, match="threads"):
        await runner.run(lambda: 1, limit_s=NO_TIME_S, name="next")
    go_on.set()
    assert await runner.run(lambda: 1, limit_s=LONG_S, name="again") == 1


async def test_a_caller_that_leaves_does_not_free_the_seat() -> None:
    """Only the end of the code does."""
    runner, begun, go_on = Runner(seats=1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    waiting = asyncio.create_task(runner.run(work, limit_s=LONG_S, name="x"))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(Overloaded):
        await runner.run(lambda: 1, limit_s=NO_TIME_S, name="next")
    go_on.set()
    assert await runner.run(lambda: 1, limit_s=LONG_S, name="again") == 1


async def test_coroutines_end_in_a_loop_of_their_own() -> None:
    """The worker's loop is another one, so that nothing they do can hold it."""
    ours = asyncio.get_running_loop()

    async def work() -> bool:
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is ours

    def start() -> bool | Awaitable[bool]:
        return work()

    assert await Runner().run(lambda: finish(start(), limit_s=LONG_S), limit_s=LONG_S, name="x") is False
    assert finish(3, limit_s=LONG_S) == 3


async def test_many_calls_take_turns() -> None:
    """More than there are seats, and all are served."""
    runner = Runner(seats=2)
    assert await asyncio.gather(*(runner.run(lambda n=n: n, limit_s=LONG_S, name="x") for n in range(50))) == [
        *range(50)
    ]
