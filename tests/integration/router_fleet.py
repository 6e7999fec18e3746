"""A router's two workers: ours as processes, each on a fake ComfyUI."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration.doors import fake_engines, fleet_settings
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess
from tests.integration.router_process import TOKEN, RouterProcess

NUMBERS = (1, 2)
Fleet = dict[int, WorkerProcess]


@contextmanager
def two_workers(router: RouterProcess, folder: Path) -> Iterator[Fleet]:
    """Two workers of the endpoint ``ep``."""
    with ExitStack() as stack:
        engines = stack.enter_context(fake_engines(*(folder / f"comfyui-{number}" for number in NUMBERS)))
        workers = {}
        for number, engine in zip(NUMBERS, engines, strict=True):
            place = folder / f"worker-{number}"
            place.mkdir()
            settings = fleet_settings(place, f"{router.url}/e/ep")
            settings |= {"MASTER_TOKEN": TOKEN, "CONTAINER_ID": str(number), "COMFYUI_BACKENDS": engine.base_url}
            workers[number] = process = WorkerProcess(place, settings)
            process.start()
            stack.callback(process.stop)
        yield workers


def all_idle(router: RouterProcess, fleet: Fleet) -> None:
    """Who was killed comes back; return when the router knows all as idle."""
    for number, process in fleet.items():
        if process.process is None or process.process.poll() is not None:
            process.start()
        ready = lambda number=number: router.status("ep", number) == "idle"  # noqa: E731 - shorter than a function
        process.wait_for(ready, "ready for the router", START_TIMEOUT_S)
