"""How late the event loop is: what blocks it, or keeps the process from running, shows here."""

import asyncio
from collections.abc import Callable

TICK_S = 0.05


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Tell ``observe``, twenty times a second and for ever, by how many seconds the loop came late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        observe(max(0.0, loop.time() - due))
