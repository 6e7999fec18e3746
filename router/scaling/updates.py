"""Rolling updates of a group (``/update_workers/``): one worker after the other is kept free until it has nothing to
do, ended and started again, and the next one's turn comes when it is ready. What is asked for is a note in the store,
so that the replica that acts finds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.endpoints import Endpoint
from router.model import Condition
from router.scaling.plan import Member

NOTE = "update/"
LIFE_S = 6 * 3600.0


def note_name(endpoint: str, group: str) -> str:
    """Where a group's update is noted."""
    return f"{NOTE}{endpoint}/{group}"


@dataclass(slots=True)
class Rollout:
    """``waiting`` are ids in their order, the first one's turn being now; ``restarted``: it was ended, and is not ready
    again yet (``went``: it was seen not to be)."""

    endpoint: str
    group: str
    at: float
    waiting: list[int] = field(default_factory=list)
    restarted: bool = False
    went: bool = False

    def resting(self, endpoint: str) -> set[str]:
        """Keys that get no work."""
        return {f"{endpoint}/{self.waiting[0]}"} if self.waiting else set()

    def step(self, members: Sequence[Member], *, endpoint: str) -> int | None:
        """Whom to restart now; None: nobody yet."""
        known = {one.id: one for one in members if one.group == self.group}
        while self.waiting:
            one = known.get(self.waiting[0])
            if one is None and not self.restarted:
                self._next()
                continue
            ready = one is not None and one.condition is Condition.READY
            self.went = self.went or (self.restarted and not ready)
            if self.restarted and self.went and ready:
                self._next()
                continue
            return one.id if one and not self.restarted and not one.busy and one.rested else None
        return None

    def began(self, number: int) -> None:
        """It is being restarted."""
        self.restarted, self.went = True, False

    def _next(self) -> None:
        self.waiting.pop(0)
        self.restarted, self.went = False, False


def rollouts(
    notes: Mapping[str, Mapping[str, Any]],
    endpoint: Endpoint,
    *,
    known: Mapping[tuple[str, str], Rollout],
) -> dict[tuple[str, str], Rollout]:
    """Those of an endpoint that are new or were asked for anew, or called off."""
    found: dict[tuple[str, str], Rollout] = {}
    for group in endpoint.settings.groups:
        body = notes.get(note_name(endpoint.name, group.name), {})
        at, ids = body.get("at"), body.get("ids")
        before = known.get((endpoint.name, group.name))
        if not isinstance(at, float) or not isinstance(ids, list) or (before is not None and before.at == at):
            continue
        waiting = [one for one in ids if isinstance(one, int)]
        found[endpoint.name, group.name] = Rollout(endpoint=endpoint.name, group=group.name, at=at, waiting=waiting)
    return found
