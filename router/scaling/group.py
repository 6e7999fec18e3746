"""One group whose workers can be started: its provider, what that said last, what is being done, how it fails."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib.clock import Clock
from lib.lifecycle import Tasks
from router.scaling.ports import Instance, InstanceState, Launch, Provider, ProviderFailed

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
BOOT_GAIN = 0.3
GRACE_S = 60.0


@dataclass(slots=True)
class Group:
    """``instances`` are known once the provider was asked (``is_known``). Moments are monotonic.

    ``gone`` are those that were there and are not any more, until somebody takes note. ``begun`` is when an instance
    was last started or first seen. ``changed`` is called when an action is over. ``most`` is how many there may be as
    far as the provider is concerned."""

    endpoint: str
    name: str
    provider: Provider
    launch_of: Callable[[], Launch]
    clock: Clock
    tasks: Tasks
    changed: Callable[[], object]
    boot_s: float
    most: int | None = None
    instances: dict[int, Instance] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    booting: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    coming: int = 0
    is_known: bool = False
    doing: str = ""
    trouble: str = ""
    failures: int = 0
    blocked_until: float = 0.0
    _listed_at: float = float("-inf")
    _listing: bool = False

    @property
    def launch(self) -> Launch:
        return self.launch_of()

    @property
    def is_blocked(self) -> bool:
        """Whether nothing is to be begun now."""
        return bool(self.doing) or not self.is_known or self.clock.monotonic() < self.blocked_until

    @property
    def needs_list(self) -> bool:
        now = self.clock.monotonic()
        fresh = now - self._listed_at < self.provider.fresh_s
        return not (self._listing or self.doing or fresh) and now >= self.blocked_until

    def look(self) -> None:
        """Ask the provider in the background."""
        self._listing = True
        self.tasks.spawn(self._look(), name=f"scaling: list {self.endpoint}/{self.name}")

    async def _look(self) -> None:
        now = self.clock.monotonic()
        try:
            found = await self.provider.list()
        except ProviderFailed as error:
            self.fail(error.message)
        else:
            self._take(found, now)
        finally:
            self._listing = False
        self.changed()

    def _take(self, found: Sequence[Instance], now: float) -> None:
        if self.doing:  # it may be older than what is being done
            return
        known = {one.id: one for one in found} | self._too_new(now)
        self.gone |= self.instances.keys() - known.keys()
        self.instances = known
        self.begun = {one.id: self.begun.get(one.id, now) for one in known.values()}
        self.booting &= set(self.instances)
        self._listed_at, self.is_known = now, True

    def _too_new(self, now: float) -> dict[int, Instance]:
        """Those that a provider far away may not list yet."""
        grace_s = min(2 * self.provider.fresh_s, GRACE_S)
        return {
            number: one
            for number, one in self.instances.items()
            if one.state is InstanceState.RUNNING and now - self.begun.get(number, now) < grace_s
        }

    def do(self, what: str, work: Awaitable[Sequence[Instance] | None], *, coming: int = 0) -> None:
        """Have the provider do something, one thing at a time."""
        self.doing, self.coming = what, coming
        self.tasks.spawn(self._do(what, work), name=f"scaling: {what} {self.endpoint}/{self.name}")

    async def _do(self, what: str, work: Awaitable[Sequence[Instance] | None]) -> None:
        try:
            begun = await work
        except ProviderFailed as error:
            self.fail(error.message)
        else:
            self._begin(begun or ())
        finally:
            self.doing, self.coming = "", 0
            self._listed_at = float("-inf")
        self.changed()

    def _begin(self, begun: Sequence[Instance]) -> None:
        now = self.clock.monotonic()
        for one in begun:
            self.instances[one.id] = one
            self.mark_booting(one.id, now)

    def mark_booting(self, instance: int, now: float) -> None:
        """It is on its way up from now on."""
        self.begun[instance] = now
        self.booting.add(instance)

    def mark(self, instance: int, state: InstanceState) -> None:
        """What was asked for counts before the provider says so."""
        if (known := self.instances.get(instance)) is not None:
            self.instances[instance] = replace(known, state=state)

    def is_ready(self, instance: int) -> None:
        """A worker reported that it is: the provider works, and starting takes so long."""
        if instance in self.booting:
            self.booting.discard(instance)
            took_s = self.clock.monotonic() - self.begun[instance]
            self.boot_s += BOOT_GAIN * (took_s - self.boot_s)
            self.failures, self.trouble = 0, ""

    def fail(self, reason: str) -> None:
        """It did not work: leave it alone for a while, longer each time."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.failures, 10), LONGEST_PAUSE_S)
        self.failures += 1
        self.trouble, self.blocked_until = reason, self.clock.monotonic() + pause_s
        words = {"event": "scaling.failed", "endpoint": self.endpoint, "group": self.name, "reason": reason}
        log.warning("provider failed", extra={**words, "pause_s": pause_s})

    def told(self) -> dict[str, Any]:
        """For people."""
        now = self.clock.monotonic()
        return {
            "instances": [
                {"id": one.id, "state": one.state, "detail": one.detail, "price": one.price}
                for one in sorted(self.instances.values(), key=lambda one: one.id)
            ],
            "doing": self.doing,
            "trouble": self.trouble,
            "failures": self.failures,
            "resumes_in_s": round(max(self.blocked_until - now, 0.0), 1),
            "boot_s": round(self.boot_s, 1),
        }
