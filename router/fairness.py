"""Which ask goes next: deficit round robin over tenants by work, two priority classes with ageing, caps. Pure.

Within a tenant short asks go before long ones, but a waiting ask gains on those behind it: its key, ``arrival +
patience x expected seconds``, never changes, so nothing is overtaken for ever. Sizes are workload units.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush
from math import floor

from router.model import Ask, Priority

QUANTUM = 100.0
"""Units that each tenant gets a round: one benchmark job."""
AGEING_S = 60.0
"""A low ask that waited so long counts as high."""
PATIENCE = 2.0
"""An ask may be overtaken by shorter ones that arrive within so many times its own expected duration."""
Entry = tuple[float, int, Ask]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One tenant's share against others, and its caps (None: none) on what waits, and on jobs and units that run."""

    weight: float = 1.0
    waiting: int | None = None
    held: int | None = None
    held_work: float | None = None


class Refused(StrEnum):
    """Why an ask may not even wait."""

    TOO_MANY_WAITING = "too-many-waiting"


@dataclass(slots=True)
class _Tenant:
    """Its asks of one class in their order; what it gets a round, and what it may still take in this one."""

    credit: float
    deficit: float
    waiting: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class _Account:
    """What one tenant has in the house."""

    waiting: int = 0
    held: int = 0
    held_work: float = 0.0


class FairQueue:
    """All waiting asks of an endpoint (or of several that share workers)."""

    def __init__(
        self,
        *,
        limits: Mapping[str, Limits] | None = None,
        otherwise: Limits | None = None,
        quantum: float = QUANTUM,
        ageing_s: float = AGEING_S,
        patience: float = PATIENCE,
    ) -> None:
        self._limits = dict(limits or {})
        self._otherwise = otherwise or Limits()
        self._quantum = quantum
        self._ageing_s = ageing_s
        self._patience = patience
        self._rings: dict[Priority, dict[str, _Tenant]] = {priority: {} for priority in Priority}
        self._places: dict[str, tuple[Priority, Entry]] = {}
        self._low: list[tuple[float, str]] = []
        self._accounts: dict[str, _Account] = {}
        self._held: dict[str, Ask] = {}
        self._number = 0
        self._work = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._places

    @property
    def work(self) -> float:
        """Units that wait."""
        return self._work

    def push(self, ask: Ask, *, pace: float = 0.01) -> Refused | None:
        """Let an ask wait; ``pace`` is the seconds that a usual worker needs for a unit.

        One that comes back from a worker keeps the place of its arrival, and is never refused: it was let in before.
        """
        account = self._accounts.setdefault(ask.tenant, _Account())
        limit = self._limits_of(ask.tenant).waiting
        if limit is not None and account.waiting >= limit and not ask.refused_by:
            return Refused.TOO_MANY_WAITING
        self.drop(ask.request_id)
        self._number += 1
        self._insert(ask.priority, (ask.arrived_at + self._patience * ask.size * pace, self._number, ask))
        account.waiting += 1
        self._work += ask.size
        if ask.priority is Priority.LOW:
            heappush(self._low, (ask.arrived_at, ask.request_id))
        return None

    def order(self, now: float) -> Iterator[Ask]:
        """Walk through the waiting asks as the next rounds would serve them; nothing is to be changed meanwhile."""
        self._promote(now)
        for priority in Priority:
            yield from self._rounds(self._rings[priority])

    def take(self, request_id: str) -> Ask | None:
        """Take out an ask that was given to a worker: its tenant pays, and holds it until ``settled``."""
        if request_id not in self._places:
            return None
        priority, (_, _, ask) = self._places[request_id]
        account = self._accounts[ask.tenant]
        account.held += 1
        account.held_work += ask.size
        self._held[request_id] = ask
        self._remove(request_id)
        self._charge(self._rings[priority], ask)
        return ask

    def drop(self, request_id: str) -> Ask | None:
        """Take out an ask whose caller is gone."""
        return self._remove(request_id) if request_id in self._places else None

    def settled(self, request_id: str) -> None:
        """What a tenant held has ended."""
        if (ask := self._held.pop(request_id, None)) is not None:
            account = self._accounts[ask.tenant]
            account.held -= 1
            account.held_work -= ask.size
            self._tidy(ask.tenant)

    def is_capped(self, tenant: str) -> bool:
        """Whether it holds as much as it may."""
        limits, account = self._limits_of(tenant), self._accounts.get(tenant)
        if account is None:
            return False
        full = limits.held is not None and account.held >= limits.held
        return full or (limits.held_work is not None and account.held_work >= limits.held_work)

    def _insert(self, priority: Priority, entry: Entry) -> None:
        ring, ask = self._rings[priority], entry[2]
        if ask.tenant not in ring:
            credit = self._quantum * self._limits_of(ask.tenant).weight
            ring[ask.tenant] = _Tenant(credit=credit, deficit=credit)
        insort(ring[ask.tenant].waiting, entry)
        self._places[ask.request_id] = (priority, entry)

    def _remove(self, request_id: str) -> Ask:
        priority, entry = self._places.pop(request_id)
        ask = entry[2]
        waiting = self._rings[priority][ask.tenant].waiting
        del waiting[bisect_left(waiting, entry)]
        self._accounts[ask.tenant].waiting -= 1
        self._work = self._work - ask.size if self._places else 0.0
        self._tidy(ask.tenant)
        return ask

    def _tidy(self, tenant: str) -> None:
        account = self._accounts[tenant]
        if not account.waiting and not account.held:
            del self._accounts[tenant]

    def _promote(self, now: float) -> None:
        while self._low and self._low[0][0] + self._ageing_s <= now:
            _, request_id = heappop(self._low)
            priority, entry = self._places.get(request_id, (Priority.HIGH, None))
            if entry is not None and priority is Priority.LOW:
                waiting = self._rings[priority][entry[2].tenant].waiting
                del waiting[bisect_left(waiting, entry)]
                self._insert(Priority.HIGH, entry)

    def _rounds(self, ring: Mapping[str, _Tenant]) -> Iterator[Ask]:
        """Serve, in mind, whoever has something left; when nobody has, a new round begins."""
        spent = [name for name, tenant in ring.items() if tenant.waiting and not self.is_capped(name)]
        if len(spent) == 1:
            yield from (entry[2] for entry in ring[spent[0]].waiting)
            return
        deficits = {name: ring[name].deficit for name in spent}
        rests = {name: iter(ring[name].waiting) for name in spent}
        nexts = {name: next(rest)[2] for name, rest in rests.items()}
        while spent:
            if max(deficits.values()) <= 0:
                _credit(ring, deficits, deficits)
            turns = [name for name in spent if deficits[name] > 0]
            spent = [name for name in spent if deficits[name] <= 0]
            for name in turns:
                left, ask, rest = deficits[name], nexts[name], rests[name]
                while True:
                    yield ask
                    left -= ask.size
                    following = next(rest, None)
                    if following is None:
                        del deficits[name]
                        break
                    ask = following[2]
                    if left <= 0:
                        deficits[name], nexts[name] = left, ask
                        spent.append(name)
                        break

    def _charge(self, ring: dict[str, _Tenant], ask: Ask) -> None:
        tenant = ring[ask.tenant]
        tenant.deficit -= ask.size
        if tenant.deficit <= 0:
            ring[ask.tenant] = ring.pop(ask.tenant)  # its turn is over
        self._next_round(ring)

    def _next_round(self, ring: dict[str, _Tenant]) -> None:
        """Credit everybody once all who wait have spent theirs; forget who neither waits nor owes anything."""
        for name in [name for name, one in ring.items() if not one.waiting and one.deficit >= 0]:
            del ring[name]
        open_to = [one.deficit for name, one in ring.items() if one.waiting and not self.is_capped(name)]
        if not any(one.waiting for one in ring.values()):
            ring.clear()
        elif open_to and max(open_to) <= 0:
            deficits = {name: one.deficit for name, one in ring.items() if not self.is_capped(name)}
            _credit(ring, deficits, [name for name in deficits if ring[name].waiting])
            for name, deficit in deficits.items():
                ring[name].deficit = deficit if ring[name].waiting else min(deficit, 0.0)

    def _limits_of(self, tenant: str) -> Limits:
        return self._limits.get(tenant, self._otherwise)


def _credit(ring: Mapping[str, _Tenant], deficits: dict[str, float], until: Iterable[str]) -> None:
    """As many rounds at once as it takes until one of ``until`` may take again."""
    one = any(deficits[name] + ring[name].credit > 0 for name in until)
    rounds = 1 if one else min(floor(-deficits[name] / ring[name].credit) for name in until) + 1
    for name in deficits:
        deficits[name] += rounds * ring[name].credit
