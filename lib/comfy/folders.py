"""A folder for each job under ComfyUI's output folder, to which nothing was written yet."""

import asyncio
import os
from pathlib import Path

REMEMBERED = 20_000
"""Names kept in memory. One that was forgotten and comes again costs nothing but a higher counter in file names."""


class JobFolders:
    """Hands out folder names. A look at the disk per job would be a thread's turn, so names are remembered."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._names: dict[str, None] = {}
        self._taken: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    async def claim(self, root: Path, name: str, *, run: int, again: bool) -> str:
        """Return a free folder relative to ``root``: ``name`` for a first run, else below it.

        ``again`` = an earlier attempt of this run may have written there."""
        if root != self._root:
            self._names = dict.fromkeys(await asyncio.to_thread(_listed, root))
            self._root = root
        if run == 1 and not again and name not in self._names and name not in self._taken:
            self._remember(name)
            return name
        return await asyncio.to_thread(_free, root, name, run, frozenset(self._taken))

    def taken(self, folder: str) -> None:
        """A prompt that an earlier life of ours posted writes there, perhaps only later."""
        self._taken.add(folder)

    def _remember(self, name: str) -> None:
        self._names[name] = None
        if len(self._names) > REMEMBERED:
            del self._names[next(iter(self._names))]


def _listed(root: Path) -> list[str]:
    try:
        return os.listdir(root)[:REMEMBERED]  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []


def _free(root: Path, name: str, run: int, taken: frozenset[str]) -> str:
    if run == 1 and name not in taken and not os.path.lexists(root / name):
        return name
    number = max(2, run)
    while f"{name}/{number}" in taken or os.path.lexists(root / name / str(number)):
        number += 1
    return f"{name}/{number}"
