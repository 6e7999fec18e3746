"""What lies in the folder of workflow files, without opening any: names, and stamps that tell when a file changed.

Links that lead out of the folder are not followed. Names that begin with ``.`` or ``_`` are not looked at: they are
what files may need beside themselves, and what Kubernetes puts into a mounted ConfigMap.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

CODE, GRAPH = ".py", ".json"
INPUTS = (".yaml", ".yml")
SCRIPTS = (".ts", ".js", ".mts", ".mjs", ".cts", ".cjs", ".tsx", ".jsx")
SUFFIXES = frozenset({CODE, GRAPH, *INPUTS, *SCRIPTS})
HIDDEN = (".", "_")
PACKAGES = "node_modules"
MAX_FILES = 10_000
MAX_DEPTH = 16
Stamp = tuple[int, int, int, int]


class ProblemKind(StrEnum):
    """How a file is no endpoint: it is not right, it is JavaScript, or it is a graph whose inputs nobody named."""

    BROKEN = "broken"
    SCRIPT = "script"
    DRAFTABLE = "draftable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a file is no endpoint. ``file`` is its place in the folder; ``text`` says what to do."""

    file: str
    kind: ProblemKind
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file. ``shown`` is its place in the folder, for people."""

    path: Path
    shown: str
    suffix: str
    stamp: Stamp

    @property
    def size(self) -> int:
        return self.stamp[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Files of one name but for the suffix: ``sdxl/txt2img``."""

    name: str
    files: tuple[File, ...]

    def of(self, *suffixes: str) -> tuple[File, ...]:
        return tuple(file for file in self.files if file.suffix in suffixes)


@dataclass(slots=True, kw_only=True)
class Scan:
    """What was found. A scan that met a limit or a wrong link says so and goes on."""

    groups: dict[str, Group] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, shown: str, text: str) -> None:
        self.problems.append(Problem(file=shown, kind=ProblemKind.BROKEN, text=text))


def scan_folder(root: Path) -> Scan:
    """Look through a folder; one that is not there is empty. Blocks."""
    scan = Scan()
    if not root.is_dir():
        if root.exists():
            scan.refuse(str(root), "is a file; expected a folder of workflow files")
        return scan
    found: dict[str, list[File]] = {}
    for count, file in enumerate(_files(root.resolve(), scan)):
        if count >= MAX_FILES:
            scan.refuse(".", f"the folder holds more than {MAX_FILES} workflow files; the rest is left out")
            break
        name = unicodedata.normalize("NFC", file.shown[: -len(file.suffix)])
        found.setdefault(name, []).append(file)
    for name, files in sorted(found.items()):
        scan.groups[name] = Group(name=name, files=tuple(sorted(files, key=lambda file: file.shown)))
    return scan


def _files(root: Path, scan: Scan) -> Iterator[File]:
    waiting: list[tuple[str, str, frozenset[str]]] = [(str(root), "", frozenset({str(root)}))]
    while waiting:
        folder, shown, above = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            scan.refuse(shown or ".", f"can't be read: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith(HIDDEN) or entry.name == PACKAGES:
                continue
            place = _shown(f"{shown}/{entry.name}" if shown else entry.name)
            if not _stays(entry, root, place, scan):
                continue
            if entry.is_dir():
                if (real := os.path.realpath(entry.path)) not in above and len(above) < MAX_DEPTH:
                    waiting.append((entry.path, place, above | {real}))
            elif (file := _file(entry, place)) is not None:
                yield file


def _stays(entry: "os.DirEntry[str]", root: Path, place: str, scan: Scan) -> bool:
    if not entry.is_symlink():
        return True
    real = Path(os.path.realpath(entry.path))
    if not real.is_relative_to(root):
        scan.refuse(place, "is a link that leads out of the folder; copy what it names into the folder")
    elif not real.exists():
        scan.refuse(place, "is a link to nothing")
    else:
        return True
    return False


def _file(entry: "os.DirEntry[str]", place: str) -> File | None:
    suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122 - a DirEntry is no Path
    if suffix.lower() not in SUFFIXES or entry.name.lower().endswith(".d.ts") or not entry.is_file():
        return None
    facts = entry.stat()
    stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_ctime_ns)
    return File(path=Path(entry.path), shown=place, suffix=suffix.lower(), stamp=stamp)


def _shown(place: str) -> str:
    """A name that can be written anywhere, bytes that are no text included."""
    return os.fsencode(place).decode("utf-8", "backslashreplace")
