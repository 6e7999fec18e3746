"""A service that runs what a script says: a ``BenchRunner`` whose runs take as long as they are told to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lib.errors import ServiceError
from tests.fakes.clock import FakeClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    total_s: float
    execute_s: float


class ScriptedRunner:
    """Each run on an engine takes the next item of its script: seconds, or the error that it ends in."""

    def __init__(
        self, clock: FakeClock, *, checkpoints: tuple[str, ...] | None = None, **script: Iterable[float | ServiceError]
    ) -> None:
        self.engines = tuple(script)
        self.graphs: list[dict[str, Any]] = []
        self.again: list[dict[str, Any]] = []
        self._clock = clock
        self._checkpoints = checkpoints
        self._script = {engine: iter(items) for engine, items in script.items()}

    async def run(self, workflow: bytes, *, engine: str, timeout_s: float) -> Times:
        self.graphs.append(json.loads(workflow))
        item = next(self._script[engine])
        if isinstance(item, ServiceError):
            raise item
        if engine == self.engines[0]:
            await self._clock.advance(item)
        return Times(total_s=item, execute_s=item - 0.01)

    def warm_again(self, workflow: bytes, *, timeout_s: float) -> None:
        self.again.append(json.loads(workflow))

    async def checkpoints(self) -> tuple[str, ...] | None:
        return self._checkpoints

    async def system_stats(self) -> Mapping[str, Any] | None:
        return {
            "system": {"comfyui_version": "0.3.75", "pytorch_version": "2.13.0+cpu"},
            "devices": [{"name": "cpu", "type": "cpu"}],
        }
