"""lib.comfy.logfile: a child's log is followed line by line and kept under a size."""

import asyncio
from pathlib import Path

from lib.clock import SystemClock
from lib.comfy.logfile import FollowedLog


def followed(path: Path, *, max_bytes: int = 10 << 20) -> tuple[FollowedLog, list[str]]:
    return FollowedLog(path, clock=SystemClock(), max_bytes=max_bytes), []


async def test_only_whole_new_lines_are_handed_over(tmp_path: Path) -> None:
    """What was there before is not new; half a line waits for its end; a progress bar is its last state."""
    path = tmp_path / "x.log"
    path.write_text("old\n")
    log, seen = followed(path)
    with log.open_for_child() as handle:
        handle.write(b"one\ntw")
        handle.flush()
        await log.catch_up(seen.append)
        assert seen == ["one"]
        handle.write(b"o\n 10%|#\r 90%|####\r\n\n\xff\n")
        handle.flush()
        await log.catch_up(seen.append)
    assert seen == ["one", "two", " 90%|####", "�"]
    assert log.tail(2) == (" 90%|####", "�")
    assert log.tail(0) == ()


async def test_a_log_that_is_taken_over_shows_its_last_lines_only(tmp_path: Path) -> None:
    """Old lines are in the tail, and cause nothing."""
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    log, seen = followed(path)
    await asyncio.to_thread(log.skip_to_end)
    await log.catch_up(seen.append)
    assert seen == []
    assert log.tail(1000)[0] == "line 800" and log.tail(1) == ("line 999",)


async def test_a_large_log_is_emptied_under_its_writer(tmp_path: Path) -> None:
    """The writer keeps its open file; copies are numbered, the oldest goes; no line is lost or seen twice."""
    path = tmp_path / "x.log"
    log, seen = followed(path, max_bytes=100)
    with log.open_for_child() as handle:
        for number in range(5):
            handle.write(f"{number}".encode() * 120 + b"\n")
            handle.flush()
            await log.catch_up(seen.append)
        handle.write(b"after\n")
        handle.flush()
        await log.catch_up(seen.append)
    assert [line[0] for line in seen] == ["0", "1", "2", "3", "4", "a"]
    assert path.read_text() == "after\n"
    assert [(tmp_path / f"x.log.{number}").read_text()[0] for number in (1, 2, 3)] == ["4", "3", "2"]
    assert not (tmp_path / "x.log.4").exists()


async def test_a_log_that_vanished_is_no_error(tmp_path: Path) -> None:
    """Somebody may clean up."""
    log, seen = followed(tmp_path / "x.log")
    await log.catch_up(seen.append)
    await asyncio.to_thread(log.skip_to_end)
    assert seen == [] and log.tail(5) == ()
