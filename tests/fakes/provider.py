"""A provider in memory: machines come and go when a test says so; it can fail, and hold what it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from router.scaling.ports import Instance, InstanceState, Launch, ProviderFailed


@dataclass
class FakeProvider:
    """Implements ``router.scaling.ports.Provider``. ``asked`` is what it was asked for, in words."""

    keeps_stopped: bool = False
    fresh_s: float = 0.0
    most: int = 100
    places: int | None = None
    failing: str = ""
    machines: dict[int, Instance] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    closed: bool = False
    first: int = 100

    async def start(self, count: int, launch: Launch) -> Sequence[Instance]:
        self._asked(f"start {count}")
        room = self.most - len(self.machines)
        begun = [Instance(id=self.first + place, state=InstanceState.RUNNING) for place in range(min(count, room))]
        self.first += len(begun)
        self.machines |= {one.id: one for one in begun}
        return begun

    async def resume(self, instance: int, launch: Launch) -> None:
        self._asked(f"resume {instance}")
        self._put(instance, InstanceState.RUNNING)

    async def restart(self, instance: int, launch: Launch) -> None:
        self._asked(f"restart {instance}")

    async def stop(self, instance: int) -> None:
        self._asked(f"stop {instance}")
        self._put(instance, InstanceState.STOPPED)

    async def remove(self, instance: int) -> None:
        self._asked(f"remove {instance}")
        self.machines.pop(instance, None)

    async def list(self) -> Sequence[Instance]:
        if self.failing:
            raise ProviderFailed(self.failing)
        return list(self.machines.values())

    async def close(self) -> None:
        self.closed = True

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if self.failing:
            raise ProviderFailed(self.failing)

    def _put(self, instance: int, state: InstanceState) -> None:
        self.machines[instance] = replace(self.machines[instance], state=state)
