"""lib.upkeep.sweep: files really go, and only those."""

import logging
import os
from pathlib import Path

import pytest

from lib.comfy.placing import FOLDER
from lib.upkeep.retention import Live
from lib.upkeep.sweep import OWN_FOLDER, Areas, Limits, Report, own_inputs, sweep

NOW = 1_000_000.0
LIMITS = Limits(max_age_s=1000, min_free_bytes=100_000, input_quota_bytes=1 << 40)


def put(path: Path, *, age_s: float, size: int = 8192) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def swept(
    areas: Areas, *, free: int = 0, live: Live | None = None, limits: Limits = LIMITS, dry: bool = False
) -> Report:
    return sweep(areas, limits, live=live or Live(), now_s=NOW, dry_run=dry, free=lambda folder: free)


def test_nothing_goes_while_enough_is_free(tmp_path: Path) -> None:
    """However old it is."""
    old = put(tmp_path / "a.png", age_s=1e6)
    assert swept(Areas(outputs=(tmp_path,)), free=100_000).files == ()
    assert old.exists()


def test_on_a_full_disk_old_files_go_with_their_empty_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Young ones and live ones stay; what went is logged with its path."""
    caplog.set_level(logging.INFO)
    old = put(tmp_path / "out" / "job1" / "deep" / "a.png", age_s=5000)
    young = put(tmp_path / "out" / "job2" / "b.png", age_s=10)
    live = put(tmp_path / "out" / "job3" / "c.png", age_s=5000)
    report = swept(Areas(outputs=(tmp_path / "out",)), live=Live.of([str(live.parent)]))
    assert report.files == (old,) and report.freed_bytes >= 8192
    assert young.exists() and live.exists() and not (tmp_path / "out" / "job1").exists()
    assert [record.path for record in caplog.records if getattr(record, "event", "") == "upkeep.removed"] == [str(old)]


def test_only_as_much_goes_as_is_needed(tmp_path: Path) -> None:
    """Oldest first, over all folders of a disk."""
    out, temp = tmp_path / "out", tmp_path / "temp"
    newer = put(out / "newer", age_s=2000)
    put(temp / "oldest", age_s=4000)
    put(out / "older", age_s=3000)
    report = swept(Areas(outputs=(out,), temps=(temp,)), free=LIMITS.min_free_bytes - 10_000)
    assert [path.name for path in report.files] == ["older", "oldest"] and newer.exists()


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    """It reports the same."""
    old = put(tmp_path / "a", age_s=5000)
    assert swept(Areas(outputs=(tmp_path,)), dry=True).files == (old,)
    assert old.exists()


def test_of_an_input_folder_only_our_part_is_looked_at(tmp_path: Path) -> None:
    """What the operator put there is his; our folder is the one that inputs are placed in."""
    assert OWN_FOLDER == FOLDER
    his = put(tmp_path / "example.png", age_s=1e6)
    ours = [put(folder / "x.png", age_s=5000) for folder in own_inputs(tmp_path)]
    assert set(swept(Areas(inputs=own_inputs(tmp_path))).files) == set(ours)
    assert his.exists()


def test_fetched_inputs_keep_to_their_quota_on_an_empty_disk_too(tmp_path: Path) -> None:
    """The least recently used go; each is removed once."""
    folder = tmp_path / OWN_FOLDER
    put(folder / "a", age_s=30, size=100)
    put(folder / "b", age_s=20, size=100)
    kept = put(folder / "c", age_s=10, size=100)
    limits = Limits(max_age_s=1000, min_free_bytes=0, input_quota_bytes=150)
    report = swept(Areas(inputs=(folder,)), free=1, limits=limits)
    assert [path.name for path in report.files] == ["a", "b"] and kept.exists()


def test_links_are_left_and_not_followed(tmp_path: Path) -> None:
    """Somebody linked a disk of his own into the folder."""
    precious = put(tmp_path / "elsewhere" / "model.bin", age_s=1e6)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "file").symlink_to(precious)
    assert swept(Areas(outputs=(tmp_path / "out",))).files == ()
    assert precious.exists()


def test_folders_that_have_been_empty_for_long_go(tmp_path: Path) -> None:
    """A fresh one may be about to get its file; a live one stays."""
    for name, age_s in (("old", 5000), ("fresh", 10), ("live", 5000)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (NOW - age_s, NOW - age_s))
    swept(Areas(outputs=(tmp_path,)), free=1 << 40, live=Live.of([str(tmp_path / "live")]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "live"]


def test_folders_that_do_not_exist_are_no_error(tmp_path: Path) -> None:
    """ComfyUI makes its output folder at the first save."""
    assert swept(Areas(outputs=(tmp_path / "nowhere",))).files == ()
