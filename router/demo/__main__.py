"""Runs the demo: says how far it is, where the page is, and in the end what to do next."""

import asyncio
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp

from lib.settings import SettingsError
from router.demo.fleet import all_ready, start_router, start_worker
from router.demo.processes import Children, DemoFailed, free_port
from router.demo.settings import CARDS, DemoSettings, load_demo_settings
from router.demo.traffic import Traffic

NEWS_S = 20.0
RUN = "run"
"""Folder of logs and state, emptied at each start."""
SEED = 7
FAILED = 1
NEXT = """
Next: `python -m router` starts a router of your own, without anything to set; docs/router.md is its guide.
"""


def main() -> int:
    """Run; the exit status."""
    try:
        settings = load_demo_settings()
    except SettingsError as error:
        return _failed(error)
    try:
        return asyncio.run(_until_told(settings))
    except* DemoFailed as failures:
        cause = _first(failures)
    return _failed(cause)


def _failed(error: BaseException) -> int:
    _say(f"\nFAILED: {error}\nNext: mend the cause, and start again.")
    return FAILED


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    found = failures.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _until_told(settings: DemoSettings) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    folder = settings.folder / RUN
    await asyncio.to_thread(_empty, folder)
    async with asyncio.TaskGroup() as group:
        demo = group.create_task(_demo(settings, folder, stop.set))
        await stop.wait()
        demo.cancel()
    _say(NEXT)
    return 0


def _empty(folder: Path) -> None:
    """Blocks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


async def _demo(settings: DemoSettings, folder: Path, over: Callable[[], object]) -> None:
    """Start everything, keep it busy; ``over`` is called when its time is over. It ends by being cancelled."""
    connector = aiohttp.TCPConnector(limit=0)
    async with Children(folder) as children, aiohttp.ClientSession(connector=connector) as http:
        try:
            port = free_port(settings.port)
            taken = f"port {settings.port} is taken, so on {port}; " if settings.port not in (0, port) else ""
            _say(f"[1/3] Router ({taken}logs are in {folder})")
            fleet = await start_router(children, folder, port=port)
            _say(f"[2/3] Workers, on fake ComfyUIs with the speed of {', '.join(card.name for card in CARDS)}")
            for card in CARDS:
                await start_worker(children, folder, fleet, card)
            async with asyncio.TaskGroup() as group:
                group.create_task(children.watch())
                capacity = await all_ready(http, fleet, _say)
                traffic = Traffic(http, fleet, units_per_s=capacity * settings.load, chance=random.Random(SEED))
                group.create_task(traffic.run())
                _say(f"[3/3] Load: {settings.load:.0%} of {capacity:.0f} units a second, in waves of a minute")
                _say(f"\n      The fleet, live:  {fleet.url}/\n\n      Ctrl-C ends it.\n")
                if settings.seconds is not None:
                    asyncio.get_running_loop().call_later(settings.seconds, over)
                await _tell(traffic)
        finally:
            _say("Stopping.")


async def _tell(traffic: Traffic) -> None:
    """Now and then, and in the end."""
    try:
        while True:
            await asyncio.sleep(NEWS_S)
            _say(_made(traffic))
    finally:
        _say(_made(traffic))


def _made(traffic: Traffic) -> str:
    mean = f", {traffic.seconds / traffic.done:.1f} s each" if traffic.done else ""
    failed = f", {traffic.failed} failed" if traffic.failed else ""
    return f"      {traffic.done} pictures made{mean}{failed}"


if __name__ == "__main__":
    sys.exit(main())
