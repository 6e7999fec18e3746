"""ComfyUI's tracebacks for callers: where in ComfyUI and its node packs it happened, and nothing of the host; pure.

A frame is ``  File "<path>", line <n>, in <name>\\n    <code>\\n``. They hold source, and no values.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath, PurePosixPath, PureWindowsPath

MOST_FRAMES = 50
MOST_CHARS = 1000
_FRAME = re.compile(r'\A(\s*File ")([^"\n]*)(", line \d+)')
_EXECUTOR = "execution.py"
_PACKAGES = frozenset({"site-packages", "dist-packages"})


def told(frames: Sequence[str], *, scrub: Callable[[str], str]) -> list[str]:
    """Return the innermost frames, with paths from ComfyUI's own folder on, or a package's; of others the last name.
    ``scrub`` takes paths out of the code, too."""
    root = _root(frames)
    return [_shown(frame, root, scrub)[:MOST_CHARS] for frame in frames[-MOST_FRAMES:]]


def _root(frames: Sequence[str]) -> PurePath | None:
    """ComfyUI's folder: its executor is what calls every node."""
    for frame in frames:
        found = _FRAME.match(frame)
        if found is not None and (path := _pure(found[2])).name == _EXECUTOR and path.is_absolute():
            return path.parent
    return None


def _shown(frame: str, root: PurePath | None, scrub: Callable[[str], str]) -> str:
    found = _FRAME.match(frame)
    if found is None:
        return scrub(frame)
    return f"{found[1]}{_short(_pure(found[2]), root)}{found[3]}{scrub(frame[found.end() :])}"


def _short(path: PurePath, root: PurePath | None) -> str:
    packages = [index for index, part in enumerate(path.parts) if part in _PACKAGES]
    if packages:
        return PurePosixPath(*path.parts[packages[-1] + 1 :]).as_posix()
    if root is not None and path.is_relative_to(root) and ".." not in path.parts:
        return path.relative_to(root).as_posix()
    return path.name


def _pure(path: str) -> PurePath:
    return PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
