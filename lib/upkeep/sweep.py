"""Looks through our folders and removes what ``retention`` chose. Everything here blocks: call it in a thread."""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from lib.upkeep.retention import Candidate, Live, oldest, over_quota

log = logging.getLogger(__name__)

OWN_FOLDER = "pyworker"
"""The folder below an input folder that holds what we fetched (``lib.comfy.placing.FOLDER``)."""
BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Folders to look through. ``inputs`` hold nothing but what we fetched."""

    outputs: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    temps: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((*self.outputs, *self.inputs, *self.temps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When files go. Ages in seconds; ``input_quota_bytes`` bounds each folder of fetched inputs."""

    max_age_s: float
    min_free_bytes: int
    input_quota_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was removed (or would have been)."""

    files: tuple[Path, ...] = ()
    freed_bytes: int = 0


def own_inputs(folder: Path) -> tuple[Path, ...]:
    """The parts of a ComfyUI's input folder that are ours."""
    return (folder / OWN_FOLDER, folder / "3d" / OWN_FOLDER)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def sweep(
    areas: Areas,
    limits: Limits,
    *,
    live: Live,
    now_s: float,
    dry_run: bool = False,
    free: Callable[[Path], int] = free_bytes,
) -> Report:
    """Remove what is over its quota, then, on each full disk, what is old, oldest first, until enough is free."""
    seen = {area: list(_files(area)) for area in areas.all if area.is_dir()}
    removed: list[Candidate] = []
    for area in areas.inputs:
        chosen = over_quota(seen.get(area, []), live=live, quota_bytes=limits.input_quota_bytes)
        removed += _remove(chosen, area, dry_run=dry_run, reason="quota")
    gone = {candidate.path for candidate in removed}
    before = now_s - limits.max_age_s
    for together in _by_disk(seen):
        wanted = limits.min_free_bytes - free(together[0])
        candidates = [file for area in together for file in seen[area] if file.path not in gone]
        chosen = oldest(candidates, live=live, before=before, wanted_bytes=wanted)
        for area in together:
            inside = [file for file in chosen if file.path.is_relative_to(area)]
            removed += _remove(inside, area, dry_run=dry_run, reason="age")
    if not dry_run:
        for area in seen:
            _remove_empty_folders(area, live=live, before=before)
    report = Report(files=tuple(file.path for file in removed), freed_bytes=sum(file.frees_bytes for file in removed))
    if removed:
        log.info(
            "clean-up done",
            extra={
                "event": "upkeep.done",
                "files": len(removed),
                "freed_bytes": report.freed_bytes,
                "dry_run": dry_run,
            },
        )
    return report


def _by_disk(areas: Iterable[Path]) -> Iterator[Sequence[Path]]:
    disks: defaultdict[int, list[Path]] = defaultdict(list)
    for area in areas:
        disks[area.stat().st_dev].append(area)
    yield from disks.values()


def _files(area: Path) -> Iterator[Candidate]:
    """List regular files below ``area``; links are neither followed nor listed."""
    for folder, _, names in os.walk(area):
        for name in names:
            path = Path(folder, name)
            try:
                facts = path.lstat()
            except FileNotFoundError:
                continue
            if S_ISREG(facts.st_mode):
                yield Candidate(
                    path=path,
                    size_bytes=facts.st_size,
                    frees_bytes=facts.st_blocks * BLOCK_BYTES // facts.st_nlink,  # its other links are here, too
                    used_at=facts.st_mtime,
                )


def _remove(chosen: Iterable[Candidate], area: Path, *, dry_run: bool, reason: str) -> list[Candidate]:
    removed: list[Candidate] = []
    for candidate in chosen:
        try:
            if candidate.path.lstat().st_mtime > candidate.used_at:
                continue  # used since it was listed
            if not dry_run:
                candidate.path.unlink()
                _remove_empty_parents(candidate.path.parent, area)
        except FileNotFoundError:
            continue
        except OSError as error:
            facts = {"path": str(candidate.path), "reason": str(error)}
            log.warning("file not removed", extra={"event": "upkeep.failed"} | facts)
            continue
        removed.append(candidate)
        log.info(
            "file would be removed" if dry_run else "file removed",
            extra={
                "event": "upkeep.would_remove" if dry_run else "upkeep.removed",
                "path": str(candidate.path),
                "size_bytes": candidate.size_bytes,
                "reason": reason,
            },
        )
    return removed


def _remove_empty_parents(folder: Path, area: Path) -> None:
    while folder != area and area in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _remove_empty_folders(area: Path, *, live: Live, before: float) -> None:
    """Remove folders that have been empty for long; a fresh one may be about to get its file."""
    for name, _, _ in os.walk(area, topdown=False):
        folder = Path(name)
        try:
            if folder != area and folder not in live and folder.stat().st_mtime < before:
                folder.rmdir()
        except OSError:
            continue
