"""What sources gave last time: kept over a restart, bounded, and never in the way."""

from pathlib import Path

import pytest

from lib.storage import known
from lib.storage.known import Known, Memory


def gave(name: str) -> Known:
    return Known(file_name=name, size_bytes=3, validators={"If-None-Match": '"1"'})


def test_it_is_remembered_over_a_restart(tmp_path: Path) -> None:
    """The newest one counts."""
    path = tmp_path / "deep" / ".known"
    memory = Memory(path)
    memory.put("a", gave("1.png"))
    memory.put("b", Known(file_name="2.png", size_bytes=1))
    memory.put("a", gave("3.png"))
    again = Memory(path)
    assert again.get("a") == gave("3.png")
    assert again.get("b") == Known(file_name="2.png", size_bytes=1)
    assert again.get("c") is None


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    """The process may die while it writes."""
    path = tmp_path / ".known"
    Memory(path).put("a", gave("1.png"))
    path.write_bytes(b'["x"]\n\xff\n[1,2,3,4]\n' + path.read_bytes() + b'["b","2.p')
    assert Memory(path).get("a") == gave("1.png")
    assert Memory(path).get("b") is None


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused ones are forgotten, and the file is rewritten."""
    monkeypatch.setattr(known, "MOST", 5)
    path = tmp_path / ".known"
    memory = Memory(path)
    for number in range(40):
        memory.put(f"s{number}", gave(f"{number}.png"))
        assert len(path.read_bytes().splitlines()) <= 15
    assert memory.get("s39") == gave("39.png") and memory.get("s34") is None
    assert Memory(path).get("s39") == gave("39.png")


def test_a_disk_that_fails_is_no_reason_to_fail(tmp_path: Path) -> None:
    """It only costs a transfer after the next start."""
    (tmp_path / "file").write_text("in the way")
    memory = Memory(tmp_path / "file" / ".known")
    memory.put("a", gave("1.png"))
    assert memory.get("a") == gave("1.png")
