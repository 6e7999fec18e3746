"""lib.comfy.models.index: what was downloaded is remembered over restarts, and nothing else is ever removed."""

import os
import time
from pathlib import Path

from lib.comfy.models.index import DRAFT_LIFE_S, MOST_SOURCES, Index, Known, Model

NOW = time.time() + 86_400.0
"""Later than any file that a test makes, also when the suite began hours before."""


def put(folder: Path, name: str, size_bytes: int = 10) -> Path:
    path = folder / name
    path.write_bytes(bytes(size_bytes))
    return path


def model(path: Path, sha256: str, *, used_at: float = 1.0) -> Model:
    return Model(sha256=sha256, size_bytes=10, paths=(str(path),), url=f"http://h/{sha256}", used_at=used_at)


def test_a_record_survives(tmp_path: Path) -> None:
    """Models, sources and unfinished transfers."""
    first = Index(tmp_path / "state/models.json")
    kept = first.add(model(put(tmp_path, "a"), "s1"))
    first.learn(("one", "alike"), Known(sha256="s1", validators={"If-None-Match": '"t"'}, checked_at=5.0))
    first.begin(put(tmp_path, ".x.part"), '"v"')
    again = Index(tmp_path / "state/models.json")
    assert again.find("s1", now=1.0) == kept and again.owner(tmp_path / "a") == kept
    assert again.source("alike") == again.source("one") == first.source("one")
    assert again.resumable(tmp_path / ".x.part") == '"v"' and again.resumable(tmp_path / ".y.part") == ""


def test_a_file_that_is_gone_or_other_is_not_found(tmp_path: Path) -> None:
    """Somebody else may have been there; one of two names is enough."""
    index = Index(tmp_path / "models.json")
    one, two = put(tmp_path, "one"), put(tmp_path, "two")
    index.add(model(one, "s1"))
    index.add(model(two, "s1"))
    one.unlink()
    found = index.find("s1", now=2.0)
    assert found is not None and found.paths == (str(two),)
    two.write_bytes(b"other")
    assert index.find("s1", now=2.0) is None and index.owner(two) is None


def test_room_is_made_by_use(tmp_path: Path) -> None:
    """Under the quota with what comes; what is in use, and what is not recorded, stays; without a quota all does."""
    index = Index(tmp_path / "models.json", quota_bytes=35)
    own = put(tmp_path, "own", 1000)
    for number in range(3):
        index.add(model(put(tmp_path, f"m{number}"), f"s{number}", used_at=float(number)))
    index.find("s0", now=9.0)
    assert index.make_room(5, keep=(), busy=(), now=NOW) == []
    assert [gone.sha256 for gone in index.make_room(15, keep=("s1",), busy=(), now=NOW)] == ["s2"]
    assert sorted(path.name for path in tmp_path.glob("m?")) == ["m0", "m1"] and own.exists()
    assert Index(tmp_path / "models.json").make_room(1 << 40, keep=(), busy=(), now=NOW) == []


def test_unfinished_transfers_go_first(tmp_path: Path) -> None:
    """Those that nobody works on."""
    index = Index(tmp_path / "models.json", quota_bytes=5)
    idle, busy = put(tmp_path, ".idle.part"), put(tmp_path, ".busy.part")
    index.begin(idle, "v")
    index.begin(busy, "v")
    index.make_room(10, keep=(), busy=(busy,), now=NOW)
    assert not idle.exists() and busy.exists()
    assert index.resumable(idle) == "" and index.resumable(busy) == "v"


def test_old_unfinished_transfers_go_in_any_case(tmp_path: Path) -> None:
    """Also where there is no quota; who only broke off for a while is not among them."""
    index = Index(tmp_path / "models.json")
    old, new = put(tmp_path, ".old.part"), put(tmp_path, ".new.part")
    os.utime(old, (0, NOW - DRAFT_LIFE_S - 1))
    index.begin(old, "v")
    index.begin(new, "v")
    index.make_room(10, keep=(), busy=(), now=NOW)
    assert not old.exists() and new.exists()


def test_all_names_of_a_model_go_together(tmp_path: Path) -> None:
    """It takes the room once, and gives it once."""
    index = Index(tmp_path / "models.json", quota_bytes=1)
    one = put(tmp_path, "one")
    (two := tmp_path / "two").hardlink_to(one)
    index.add(model(one, "s1"))
    index.add(model(two, "s1", used_at=0.0))
    assert len(index.make_room(0, keep=(), busy=(), now=NOW)) == 1
    assert not one.exists() and not two.exists()


def test_sources_are_bounded(tmp_path: Path) -> None:
    """Links that are signed anew each time are many; the last ones count."""
    index = Index(tmp_path / "models.json")
    known = Known(sha256="s")
    index.learn([str(number) for number in range(MOST_SOURCES + 10)], known)
    assert index.source("9") is None and index.source(str(MOST_SOURCES + 9)) == known


def test_a_broken_record_begins_anew(tmp_path: Path) -> None:
    """Whatever stands there."""
    for text in ("", "[]", '{"models": [{}]}', '{"models": [], "sources": 3, "drafts": {}}'):
        (tmp_path / "models.json").write_text(text)
        index = Index(tmp_path / "models.json")
        assert index.find("s", now=0.0) is None and index.source("x") is None
