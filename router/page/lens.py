"""What one reader of the page wants to see of a large fleet: which workers, in which order, how many. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import nsmallest
from typing import Any, TypeVar

from lib.errors import InvalidRequest
from router.model import Condition
from router.page.facts import Facts

USUAL, MOST = 60, 500
LONGEST_TEXT = 100
Choice = TypeVar("Choice", bound=StrEnum)
_URGENCY = {
    Condition.ERROR: 0,
    Condition.STALE: 1,
    Condition.READY: 3,
    Condition.STARTING: 4,
    Condition.DRAINING: 5,
    Condition.STOPPED: 6,
}
_SLOW = 2


class Show(StrEnum):
    """Which workers."""

    ALL = "all"
    READY = "ready"
    BUSY = "busy"
    IDLE = "idle"
    TROUBLE = "trouble"
    SLOW = "slow"


class Order(StrEnum):
    """Which of them first; the first is the usual one: who needs a look, then the fastest."""

    ATTENTION = "attention"
    SPEED = "speed"
    LOAD = "load"
    FAILED = "failed"
    NAME = "name"
    HEARD = "heard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A worker's facts, and what it is searched and sorted by."""

    facts: Facts
    words: str
    name: tuple[str, int]

    @classmethod
    def of(cls, facts: Facts) -> "Row":
        """Make it once for each change of the worker."""
        said = ("key", "gpu", "group", "condition", "trouble", "url")
        words = " ".join([*(str(facts[name]) for name in said), *(facts["warm"] or ())]).lower()
        return cls(facts=facts, words=words, name=(facts["endpoint"], facts["id"]))


_SHOWN: Mapping[Show, Callable[[Facts], bool]] = {
    Show.ALL: lambda facts: True,
    Show.READY: lambda facts: facts["condition"] is Condition.READY,
    Show.BUSY: lambda facts: bool(facts["held_count"] or facts["foreign"]),
    Show.IDLE: lambda facts: facts["condition"] is Condition.READY and not (facts["held_count"] or facts["foreign"]),
    Show.TROUBLE: lambda facts: _URGENCY[facts["condition"]] < _SLOW,
    Show.SLOW: lambda facts: facts["slow"] is not None,
}
_KEYS: Mapping[Order, Callable[[Row], tuple[Any, ...]]] = {
    Order.ATTENTION: lambda row: (_urgency(row.facts), -row.facts["score"], row.name),
    Order.SPEED: lambda row: (-row.facts["speed"], row.name),
    Order.LOAD: lambda row: (-(row.facts["free_at"] or 0.0), row.name),
    Order.FAILED: lambda row: (-row.facts["failed"], row.name),
    Order.NAME: lambda row: row.name,
    Order.HEARD: lambda row: (row.facts["heard_at"], row.name),
}


def _urgency(facts: Facts) -> int:
    return _SLOW if facts["slow"] is not None else _URGENCY[facts["condition"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """One reader's choice; ``text`` is looked for in names, cards, models and troubles."""

    endpoint: str = ""
    text: str = ""
    show: Show = Show.ALL
    order: Order = Order.ATTENTION
    most: int = USUAL

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "Lens":
        """From a URL's query. Raises: InvalidRequest."""
        most = query.get("most", str(USUAL))
        if not (most.isascii() and most.isdigit() and 1 <= int(most[:6]) <= MOST):
            raise InvalidRequest(f"'most' must be a number from 1 to {MOST}.")
        return cls(
            endpoint=query.get("endpoint", ""),
            text=query.get("q", "")[:LONGEST_TEXT].strip().lower(),
            show=_choice(Show, query, "show"),
            order=_choice(Order, query, "order"),
            most=int(most),
        )

    def select(self, rows: Iterable[Row]) -> tuple[list[Row], int]:
        """The workers to show, and how many fit in all."""
        fits = _SHOWN[self.show]
        found = [
            row
            for row in rows
            if (not self.endpoint or row.facts["endpoint"] == self.endpoint)
            and (not self.text or self.text in row.words)
            and fits(row.facts)
        ]
        return nsmallest(self.most, found, key=_KEYS[self.order]), len(found)


def _choice(choices: type[Choice], query: Mapping[str, str], name: str) -> Choice:
    said = query.get(name) or next(iter(choices)).value
    try:
        return choices(said)
    except ValueError:
        raise InvalidRequest(f"'{name}' must be one of {', '.join(choices)}.") from None
