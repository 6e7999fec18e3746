"""Which files may go: old ones when the disk runs full, and what is over a quota; pure.

Never one that is live: of a job that is not over, or not delivered. Files that the operator put anywhere are not
among the candidates, because only folders that we write are looked through.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file as it was seen. ``used_at`` is epoch seconds; ``frees_bytes`` is what its removal would free."""

    path: Path
    size_bytes: int
    frees_bytes: int
    used_at: float


@dataclass(frozen=True, slots=True)
class Live:
    """Paths that must stay: files, or folders with everything in them."""

    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, paths: Collection[str]) -> "Live":
        return cls(frozenset(path.rstrip("/") for path in paths if path))

    def __contains__(self, path: Path) -> bool:
        return bool(self.paths) and (str(path) in self.paths or any(str(above) in self.paths for above in path.parents))


def oldest(candidates: Iterable[Candidate], *, live: Live, before: float, wanted_bytes: int) -> Sequence[Candidate]:
    """Choose files last used before ``before``, oldest first, until ``wanted_bytes`` would be free."""
    chosen: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda file: (file.used_at, file.path)):
        if wanted_bytes <= 0 or candidate.used_at >= before:
            break
        if candidate.path not in live:
            chosen.append(candidate)
            wanted_bytes -= candidate.frees_bytes
    return chosen


def over_quota(candidates: Collection[Candidate], *, live: Live, quota_bytes: int) -> Sequence[Candidate]:
    """Choose the least recently used files until the rest fits ``quota_bytes``."""
    excess = sum(candidate.size_bytes for candidate in candidates) - quota_bytes
    chosen: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda file: (file.used_at, file.path)):
        if excess <= 0:
            break
        if candidate.path not in live:
            chosen.append(candidate)
            excess -= candidate.size_bytes
    return chosen
