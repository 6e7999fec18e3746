"""For every test: shared fixtures, no blocking call of ours in an event loop, no task left behind."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

from tests.comfyui_fixture import real_comfyui  # noqa: F401 - a fixture is registered by being imported

# An example that takes long says nothing of the code. The examples are the same each time, so that a change is to blame
# for what fails; --hypothesis-profile=chance looks at others.
settings.register_profile("chance", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("busy machine", settings.get_profile("chance"), derandomize=True)
settings.load_profile("busy machine")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads of a real ComfyUI that wait for one another leave the processor to others: where it is busy, a picture takes
a quarter of the time."""
CLOSING_S = 2.0
"""The other end of a connection hears late that it was closed, where the machine is busy."""


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call under an event loop, with code of ``lib`` on the stack, raises BlockingError."""
    detector = BlockBuster("lib")
    detector.activate()
    yield
    detector.deactivate()


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails a test that ends while tasks of its loop still run; those that hear of the end have a moment for theirs."""
    yield
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(left, timeout=CLOSING_S)
    assert not left, f"tasks left behind: {[task.get_name() for task in left]} {left}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Asynchronous tests close with ``no_task_left``, after every other fixture of theirs."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_task_left")
