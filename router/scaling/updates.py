"""Rolling updates of a group (``/update_workers/``): one worker after the other is kept free until it has nothing to
do, ended and started again, and the next one's turn comes when it is ready. What is to be done is a note in the store,
so that the replica that acts finds it, and whoever acts after it what is left."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.clock import Clock
from router.endpoints import Endpoint
from router.model import Condition
from router.ports import SharedState
from router.scaling.plan import Member
from router.scaling.ports import InstanceState
from router.storelink import StoreLink

NOTE = "update/"
LIFE_S = 6 * 3600.0
DOWN = (InstanceState.STOPPED, InstanceState.LEAVING)
PATIENCE_S = 60.0
"""One that was told to restart and is ready after so long did it so quickly that nobody saw it go."""


async def note_update(link: StoreLink, endpoint: str, group: str, *, at: float, ids: Sequence[int]) -> bool:
    """Note who is to be updated, the first one first; whether that went well. ``at`` tells one update from another."""

    async def put(state: SharedState) -> bool:
        await state.put_note(f"{NOTE}{endpoint}/{group}", {"at": at, "ids": list(ids)}, ttl_s=LIFE_S)
        return True

    return await link.attempt(put, otherwise=False)


@dataclass(slots=True)
class Rollout:
    """``waiting`` are ids in their order, the first one's turn being now; ``restarted``: it was ended (at ``began_at``,
    monotonic), and is not ready again yet (``went``: it was seen not to be)."""

    endpoint: str
    group: str
    at: float
    waiting: list[int] = field(default_factory=list)
    restarted: bool = False
    went: bool = False
    began_at: float = 0.0

    def step(self, members: Sequence[Member], *, now: float) -> int | None:
        """Whom to restart now; None: nobody yet. One that is gone or stopped meanwhile needs none: what starts next is
        new anyway."""
        known = {one.id: one for one in members if one.group == self.group and one.state not in DOWN}
        while self.waiting:
            one = known.get(self.waiting[0])
            if one is not None and not self._is_done(one, now):
                return one.id if not self.restarted and not one.busy and one.rested else None
            self.waiting.pop(0)
            self.restarted, self.went = False, False
        return None

    def _is_done(self, one: Member, now: float) -> bool:
        if not self.restarted:
            return False
        self.went = self.went or one.condition is not Condition.READY
        return one.condition is Condition.READY and (self.went or now - self.began_at >= PATIENCE_S)

    def began(self, now: float) -> None:
        """It is being restarted."""
        self.restarted, self.went, self.began_at = True, False, now

    def told(self) -> dict[str, Any]:
        """For people."""
        return {"endpoint": self.endpoint, "group": self.group, "at": self.at, "waiting": list(self.waiting)}


class Rollouts:
    """Those that go on."""

    def __init__(self, link: StoreLink, *, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._known: dict[tuple[str, str], Rollout] = {}

    def hear(self, notes: Mapping[str, Mapping[str, Any]], endpoint: Endpoint) -> None:
        """Take up what was asked for, or called off, since the last time."""
        for group in endpoint.settings.groups:
            body = notes.get(f"{NOTE}{endpoint.name}/{group.name}", {})
            at, ids = body.get("at"), body.get("ids")
            before = self._known.get((endpoint.name, group.name))
            if not isinstance(at, float) or not isinstance(ids, list) or (before is not None and before.at == at):
                continue
            waiting = [one for one in ids if isinstance(one, int)]
            self._known[endpoint.name, group.name] = Rollout(endpoint.name, group.name, at, waiting)

    def of(self, endpoint: str) -> Iterator[Rollout]:
        """Those of one endpoint that have something to do."""
        return (one for one in self._known.values() if one.endpoint == endpoint and one.waiting)

    def resting(self, endpoint: str) -> frozenset[str]:
        """Keys of those whose turn it is: they get no work."""
        return frozenset(f"{endpoint}/{one.waiting[0]}" for one in self.of(endpoint))

    def restarted(self, endpoint: str) -> Mapping[int, float]:
        """Those that were ended and are on their way up again, and since when (monotonic)."""
        return {one.waiting[0]: one.began_at for one in self.of(endpoint) if one.restarted}

    async def begin(self, rollout: Rollout) -> None:
        """The first one's restart begins; whoever acts after us goes on with the others."""
        rollout.began(self._clock.monotonic())
        await note_update(self._link, rollout.endpoint, rollout.group, at=rollout.at, ids=rollout.waiting[1:])

    def told(self) -> list[dict[str, Any]]:
        """For people."""
        return [one.told() for one in self._known.values() if one.waiting]
