"""lib.upkeep.retention: the choice of files that may go."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lib.upkeep.retention import Candidate, Live, oldest, over_quota


def file(name: str, *, used_at: float = 0, size: int = 10) -> Candidate:
    return Candidate(path=Path("/out") / name, size_bytes=size, frees_bytes=size, used_at=used_at)


def names(chosen: object) -> list[str]:
    assert isinstance(chosen, list)
    return [candidate.path.name for candidate in chosen]


def test_the_oldest_go_until_enough_is_free() -> None:
    """And not one more."""
    files = [file("c", used_at=3), file("a", used_at=1), file("b", used_at=2)]
    assert names(oldest(files, live=Live(), before=100, wanted_bytes=15)) == ["a", "b"]
    assert names(oldest(files, live=Live(), before=100, wanted_bytes=0)) == []


def test_young_files_stay_however_full_the_disk_is() -> None:
    """The age is a promise to whoever fetches results."""
    files = [file("old", used_at=1), file("young", used_at=50)]
    assert names(oldest(files, live=Live(), before=50, wanted_bytes=1 << 40)) == ["old"]


def test_live_files_and_what_is_in_live_folders_stay() -> None:
    """A job that is not delivered keeps its files at any age."""
    live = Live.of(["/out/job1/", "/out/single", ""])
    files = [file("job1/a"), file("job1/deep/b"), file("single"), file("job10/c")]
    assert names(oldest(files, live=live, before=100, wanted_bytes=1 << 40)) == ["c"]
    assert names(over_quota(files, live=live, quota_bytes=0)) == ["c"]


def test_over_a_quota_the_least_recently_used_go() -> None:
    """Whatever the disk says."""
    files = [file("b", used_at=2), file("a", used_at=1), file("c", used_at=3)]
    assert names(over_quota(files, live=Live(), quota_bytes=15)) == ["a", "b"]
    assert names(over_quota(files, live=Live(), quota_bytes=30)) == []


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50), st.booleans()), max_size=30),
    st.integers(0, 20),
    st.integers(-10, 500),
)
def test_no_choice_takes_what_must_stay_or_more_than_needed(
    drawn: list[tuple[int, int, bool]], before: int, wanted: int
) -> None:
    """Never live, never young; without its last file the choice would not free enough."""
    files = [file(str(number), used_at=used, size=size) for number, (used, size, _) in enumerate(drawn)]
    live = Live.of([f"/out/{number}" for number, (_, _, held) in enumerate(drawn) if held])
    chosen = oldest(files, live=live, before=before, wanted_bytes=wanted)
    assert all(candidate.used_at < before and candidate.path not in live for candidate in chosen)
    assert sum(candidate.frees_bytes for candidate in chosen[:-1]) < wanted or not chosen
    left = [candidate for candidate in files if candidate not in chosen and candidate.path not in live]
    if sum(candidate.frees_bytes for candidate in chosen) < wanted:
        assert all(candidate.used_at >= before for candidate in left)
