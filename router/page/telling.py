"""What one reader of the page has been told, and so what is news to it: a snapshot at first, then what changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from router.cases import Decided
from router.page.facts import Facts, decision_facts
from router.page.lens import Lens, Row
from router.page.troubles import Trouble

DECISIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All there is to tell at this moment. ``whole`` holds what is small, and told as a whole when it changed."""

    at: float
    rows: dict[str, Row]
    endpoints: dict[str, Facts]
    decisions: Sequence[Decided]
    troubles: Sequence[Trouble]
    trouble_count: int
    whole: dict[str, Any]


class Telling:
    """One reader's. What it holds is bounded by what its lens lets through."""

    def __init__(self, lens: Lens) -> None:
        self._lens = lens
        self._rows: dict[str, Row] = {}
        self._keys: list[str] | None = None
        self._counts = (-1, -1)
        self._endpoints: dict[str, Facts] = {}
        self._names: list[str] | None = None
        self._whole: dict[str, Any] = {}
        self._decided: Decided | None = None
        self._troubles = 0
        self._began = False

    def news(self, scene: Scene) -> Facts | None:
        """What it does not know yet; None: nothing."""
        parts: Facts = {}
        for part in (self._workers(scene), self._named(scene), self._events(scene), self._rest(scene)):
            parts |= part
        if not parts and self._began:
            return None
        kind = "change" if self._began else "snapshot"
        self._began = True
        return {"kind": kind, "at": round(scene.at, 3), **parts}

    def _workers(self, scene: Scene) -> Facts:
        chosen, matching = self._lens.select(scene.rows.values())
        keys = [row.facts["key"] for row in chosen]
        told: Facts = {}
        changed = [row.facts for row in chosen if self._rows.get(row.facts["key"]) is not row]
        if changed:
            told["workers"] = changed
        if keys != self._keys:
            told["order"] = keys
        if (matching, len(scene.rows)) != self._counts:
            told["matching"], told["known"] = self._counts = (matching, len(scene.rows))
        self._rows, self._keys = dict(zip(keys, chosen, strict=True)), keys
        return told

    def _named(self, scene: Scene) -> Facts:
        told: Facts = {}
        changed = {name: facts for name, facts in scene.endpoints.items() if self._endpoints.get(name) != facts}
        if changed:
            told["endpoints"] = changed
        if (names := list(scene.endpoints)) != self._names:
            told["names"] = names
        self._endpoints, self._names = dict(scene.endpoints), names
        return told

    def _events(self, scene: Scene) -> Facts:
        """The newest first."""
        told: Facts = {}
        if decided := self._newly_decided(scene.decisions):
            told["decisions"] = [decision_facts(one) for one in decided]
            self._decided = decided[0]
        if count := min(scene.trouble_count - self._troubles, len(scene.troubles)):
            told["troubles"] = [asdict(one) for one in list(scene.troubles)[: -count - 1 : -1]]
            self._troubles = scene.trouble_count
        return told

    def _newly_decided(self, decisions: Sequence[Decided]) -> list[Decided]:
        found: list[Decided] = []
        for one in reversed(decisions):
            if one is self._decided or len(found) == DECISIONS:
                break
            found.append(one)
        return found

    def _rest(self, scene: Scene) -> Facts:
        changed = {name: value for name, value in scene.whole.items() if self._whole.get(name, ...) != value}
        self._whole = dict(scene.whole)
        return changed
