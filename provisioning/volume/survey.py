"""What lies on the network volume, and where nobody looks: a report for people and for ``/health``.

Shape (``volume`` in ``provisioning-report.json``)::

    {"path", "mounted": bool, "models_found": bool, "own_paths": path or null, "free_bytes",
     "folders": {"checkpoints": {"files": 2, "bytes": 9070774, "ignored": ["a.zip"]}},
     "misplaced": [{"path": "checkpoints", "belongs": "models/checkpoints", "files": 1}],
     "node_packs": ["name"], "complete": bool}
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from provisioning.steps import say
from provisioning.volume.folders import BY_PACKS, WEIGHTS, ModelKind
from provisioning.volume.paths import other_folders, own_paths

LIMIT_FILES = 20_000
NAMED_IGNORED = 20
COMPANIONS = frozenset({".txt", ".md", ".json", ".yaml", ".yml", ".png", ".jpg", ".jpeg", ".webp", ".html", ".info"})
"""Files beside models that nobody takes for one."""
OTHER_TREES = ("ComfyUI", "comfyui", "workspace/ComfyUI", "runpod-slim/ComfyUI")
"""Where Pods keep a whole ComfyUI on the same volume."""


class FolderReport(BaseModel):
    """One folder of ``models``."""

    model_config = ConfigDict(frozen=True)

    files: int = 0
    bytes: int = 0
    ignored: tuple[str, ...] = ()


class Misplaced(BaseModel):
    """Models in a place that ComfyUI does not look at."""

    model_config = ConfigDict(frozen=True)

    path: str
    belongs: str
    files: int


class VolumeReport(BaseModel):
    """The whole volume; ``complete`` is false when it has more files than were counted."""

    model_config = ConfigDict(frozen=True)

    path: str
    mounted: bool
    models_found: bool = False
    own_paths: str | None = None
    free_bytes: int | None = None
    folders: dict[str, FolderReport] = {}
    misplaced: tuple[Misplaced, ...] = ()
    node_packs: tuple[str, ...] = ()
    complete: bool = True


class _Walk:
    """Counts what it gives, over all folders, up to a limit: a network volume can be slow, and large."""

    def __init__(self) -> None:
        self.left = LIMIT_FILES

    def files(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Give path (under ``folder``) and size of each file."""
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")] if self.left > 0 else []
            for name in sorted(names):
                self.left -= 1
                path = Path(parent, name)
                if self.left >= 0 and not name.startswith(".") and path.is_file():
                    yield str(path.relative_to(folder)), path.stat().st_size


def survey(volume: Path, kinds: Iterable[ModelKind], *, each: bool = False) -> VolumeReport:
    """Look through the volume once; ``each`` says every file."""
    kinds = tuple(kinds)
    if not volume.is_dir():
        return VolumeReport(path=str(volume), mounted=False)
    walk = _Walk()
    folders = dict(_folders(volume / "models", _endings(kinds, volume), walk, each=each))
    misplaced = (*_wrong_folders(volume, kinds, walk), *_loose(volume, Path()), *_loose(volume, Path("models")))
    own = own_paths(volume)
    nodes = volume / "custom_nodes"
    packs = sorted(path.name for path in nodes.iterdir() if path.is_dir()) if nodes.is_dir() else []
    return VolumeReport(
        path=str(volume),
        mounted=True,
        models_found=(volume / "models").is_dir(),
        own_paths=str(own) if own else None,
        free_bytes=shutil.disk_usage(volume).free,
        folders=folders,
        misplaced=misplaced,
        node_packs=tuple(name for name in packs if not name.startswith((".", "__")) and not name.endswith(".disabled")),
        complete=walk.left >= 0,
    )


def _endings(kinds: Iterable[ModelKind], volume: Path) -> dict[str, frozenset[str]]:
    """Give, per folder, which endings are listed (empty: all); folders that only node packs know list all."""
    table: dict[str, frozenset[str]] = {}
    for kind in kinds:
        for folder in kind.folders:
            table[folder] = kind.endings | BY_PACKS if kind.endings else frozenset()
    return table | dict.fromkeys(other_folders(volume, kinds), frozenset[str]())


def _folders(
    models: Path, endings: dict[str, frozenset[str]], walk: _Walk, *, each: bool
) -> Iterator[tuple[str, FolderReport]]:
    for name in sorted(endings):
        if not (models / name).is_dir():
            continue
        report = _folder(models / name, endings[name], walk, each=each)
        if report.files or report.ignored:
            yield name, report


def _folder(folder: Path, endings: frozenset[str], walk: _Walk, *, each: bool) -> FolderReport:
    count, total, ignored = 0, 0, []
    for path, size in walk.files(folder):
        ending = Path(path).suffix.lower()
        listed = not endings or ending in endings
        if listed:
            count, total = count + 1, total + size
        elif ending not in COMPANIONS:
            ignored.append(path)
        if each:
            say(f"    models/{folder.name}/{path}: {size / 1e6:.1f} MB{'' if listed else ', ignored (its ending)'}")
    return FolderReport(files=count, bytes=total, ignored=tuple(ignored[:NAMED_IGNORED]))


def _wrong_folders(volume: Path, kinds: Iterable[ModelKind], walk: _Walk) -> Iterator[Misplaced]:
    names = sorted({folder for kind in kinds for folder in kind.folders if kind.name != "configs"})
    trees = [Path(tree, "models") for tree in OTHER_TREES if (volume / tree / "models").is_dir()]
    seen: set[Path] = set()
    for tree in (Path(), *trees):
        for name in names:
            folder = volume / tree / name
            if not folder.is_dir() or folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            count = sum(_is_model(path) for path, _ in walk.files(folder))
            if count and folder.resolve() != (volume / "models" / name).resolve():
                yield Misplaced(path=str(tree / name), belongs=f"models/{name}", files=count)


def _loose(volume: Path, place: Path) -> Iterator[Misplaced]:
    folder = volume / place
    files = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    for name in files:
        if _is_model(name):
            yield Misplaced(path=str(place / name), belongs="models/<folder of its kind>", files=1)


def _is_model(path: str) -> bool:
    return Path(path).suffix.lower() in WEIGHTS | BY_PACKS


def tell(report: VolumeReport) -> None:
    """Say it to a person: what counts, then each likely mistake with its remedy."""
    if not report.mounted:
        say(f"    no network volume at {report.path}")
        return
    count = sum(folder.files for folder in report.folders.values())
    size = sum(folder.bytes for folder in report.folders.values())
    free = f", {report.free_bytes / 1e9:.0f} GB free" if report.free_bytes is not None else ""
    say(f"    {count} model files, {size / 1e9:.1f} GB{free}")
    for name, folder in report.folders.items():
        say(f"    models/{name}: {folder.files} files, {folder.bytes / 1e9:.2f} GB")
        if folder.ignored:
            say(f"    models/{name}: ignored for their endings: {', '.join(folder.ignored)}")
    if not report.models_found:
        say(f"    LIKELY MISTAKE: there is no {report.path}/models; checkpoints belong into models/checkpoints")
    for wrong in report.misplaced:
        say(f"    LIKELY MISTAKE: {wrong.path} ({wrong.files} files) is not looked at; move it to {wrong.belongs}")
    if not report.complete:
        say(f"    only the first {LIMIT_FILES} files were counted")
