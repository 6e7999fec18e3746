"""Each attempt of a job writes where nothing was written yet."""

from pathlib import Path

from lib.comfy import folders
from lib.comfy.folders import JobFolders


async def test_a_first_run_has_the_name_itself_and_later_ones_a_number_below(tmp_path: Path) -> None:
    """``again`` and ``run`` both mean that something may be there."""
    claims = JobFolders()
    assert await claims.claim(tmp_path, "job", run=1, again=False) == "job"
    (tmp_path / "job").mkdir()
    assert await claims.claim(tmp_path, "job", run=1, again=True) == "job/2"
    assert await claims.claim(tmp_path, "job", run=2, again=False) == "job/2"
    (tmp_path / "job" / "2").mkdir()
    assert await claims.claim(tmp_path, "job", run=2, again=False) == "job/3"
    assert await claims.claim(tmp_path, "job", run=7, again=False) == "job/7"


async def test_what_an_earlier_process_left_is_seen(tmp_path: Path) -> None:
    """After a restart of ours a request id may come again as its first run."""
    (tmp_path / "old").mkdir()
    assert await JobFolders().claim(tmp_path, "old", run=1, again=False) == "old/2"


async def test_a_name_that_was_claimed_and_never_written_to_is_free(tmp_path: Path) -> None:
    """A prompt that was withdrawn left nothing."""
    claims = JobFolders()
    assert await claims.claim(tmp_path, "job", run=1, again=False) == "job"
    assert await claims.claim(tmp_path, "job", run=1, again=False) == "job"


async def test_memory_is_bounded(tmp_path: Path) -> None:
    """The oldest names go; the folder need not exist yet."""
    claims = JobFolders()
    for number in range(folders.REMEMBERED + 5):
        await claims.claim(tmp_path / "none", f"job{number}", run=1, again=False)
    assert len(claims) == folders.REMEMBERED


async def test_folders_of_prompts_from_an_earlier_life_are_taken(tmp_path: Path) -> None:
    """They may not exist yet."""
    claims = JobFolders()
    claims.taken("job")
    claims.taken("job/2")
    assert await claims.claim(tmp_path, "job", run=1, again=False) == "job/3"
