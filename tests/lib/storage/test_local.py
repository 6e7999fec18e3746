"""The store of fetched files: whole files only, equal content once, least recently used out first."""

import gc
from pathlib import Path

import pytest

from lib.storage.local import ContentStore, Fetched
from lib.storage.media import NotMedia
from tests.fakes.http_hosts import png


def keep(store: ContentStore, data: bytes) -> Fetched:
    draft = store.draft()
    draft.write(data)
    return store.adopt(draft, name="x.png")


def names(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir()}


def test_equal_content_is_kept_once(tmp_path: Path) -> None:
    """Two files of the same bytes are one, named by their hash."""
    store = ContentStore(tmp_path / "in", quota_bytes=1 << 20)
    first, second = keep(store, png()), keep(store, png())
    assert first is second
    assert first.path.read_bytes() == png()
    assert names(tmp_path / "in") == {f"{first.sha256}.png"}


def test_an_unfinished_file_is_never_visible(tmp_path: Path) -> None:
    """While a draft is written, and after it is discarded or refused, no file has its final name."""
    store = ContentStore(tmp_path, quota_bytes=1 << 20)
    draft = store.draft()
    draft.write(png()[:20])
    assert all(name.endswith(".part") for name in names(tmp_path))
    draft.discard()
    draft.write(b"a late thread writes on")
    assert names(tmp_path) == set()
    with pytest.raises(NotMedia):
        keep(store, b"<html></html>")
    assert names(tmp_path) == set()


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Over the quota the file that was not used for longest is removed; one in use stays."""
    a, b, c = png(shade=1), png(shade=2), png(shade=3)
    store = ContentStore(tmp_path, quota_bytes=len(a) + len(b))
    name_a, name_b = keep(store, a).path.name, keep(store, b).path.name
    assert store.find(name_a) is not None
    gc.collect()
    kept = keep(store, c)
    assert names(tmp_path) == {name_a, kept.path.name}
    assert store.find(name_b) is None


def test_a_held_file_is_not_removed(tmp_path: Path) -> None:
    """No quota takes a file away from somebody who holds it; it goes when it is let go."""
    store = ContentStore(tmp_path, quota_bytes=0)
    held = keep(store, png(shade=1))
    keep(store, png(shade=2))
    gc.collect()
    assert held.path.is_file()
    name = held.path.name
    del held
    gc.collect()
    keep(store, png(shade=3))
    assert name not in names(tmp_path)


def test_a_restart_counts_old_files_and_removes_halves(tmp_path: Path) -> None:
    """Files of an earlier process count against the quota; its unfinished ones are deleted."""
    old = keep(ContentStore(tmp_path, quota_bytes=1 << 20), png(shade=1)).path
    (tmp_path / "0123.part").write_bytes(b"half")
    store = ContentStore(tmp_path, quota_bytes=len(png()))
    new = keep(store, png(shade=2))
    assert names(tmp_path) == {new.path.name}
    assert not old.exists()


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    """A file of the right name and the wrong size (power loss) is written again."""
    store = ContentStore(tmp_path, quota_bytes=1 << 20)
    path = keep(store, png()).path
    path.write_bytes(b"")
    assert keep(store, png()).path.read_bytes() == png()


def test_files_of_an_earlier_process_are_found(tmp_path: Path) -> None:
    """With their kind, told anew by content; what is no media any more, or hidden, is none of them."""
    name = keep(ContentStore(tmp_path, quota_bytes=1 << 20), png()).path.name
    (tmp_path / ".known").write_text("x")
    (tmp_path / "broken.png").write_bytes(b"")
    store = ContentStore(tmp_path, quota_bytes=1 << 20)
    found = store.find(name)
    assert found is not None and found.mime_type == "image/png"
    assert store.find("broken.png") is None and store.find(".known") is None


def test_what_clean_up_took_counts_no_more(tmp_path: Path) -> None:
    """Else the store would throw away files for room that it has."""
    a, b, c = png(shade=1), png(shade=2), png(shade=3)
    store = ContentStore(tmp_path, quota_bytes=len(a) + len(b))
    kept = keep(store, b).path
    keep(store, a).path.unlink()
    gc.collect()
    keep(store, c)
    assert kept.is_file()
