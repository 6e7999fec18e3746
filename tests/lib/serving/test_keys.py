"""The command that makes keys."""

from pathlib import Path

import pytest

from lib.serving.keyring import digest, file_keys
from lib.serving.keys import main


def test_a_key_is_shown_once_and_its_hash_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds nothing that opens the door, and is its owner's only."""
    path = tmp_path / "keys.yaml"
    asked = ["new", "alice", "--tenant", "studio", "--scope", "admin", "--per-minute", "30", "--in-flight", "2"]
    assert main([*asked, "--file", str(path)]) == 0
    key = capsys.readouterr().out.strip()
    assert len(key) > 40
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (entry,) = file_keys(path.read_text())
    assert (entry.name, entry.tenant, entry.admin, entry.sha256) == ("alice", "studio", True, digest(key))
    assert (entry.requests_per_minute, entry.max_in_flight) == (30.0, 2)


def test_more_keys_are_appended(tmp_path: Path) -> None:
    """What is there stays as it is, comments and mode too; a name twice is refused and changes nothing."""
    path = tmp_path / "keys.yaml"
    path.write_text("# ours\n- name: first\n  sha256: '" + "0" * 64 + "'  # old")
    path.chmod(0o640)
    assert main(["new", "second", "--file", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("# ours\n- name: first\n")
    assert "# old\n" in text
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in file_keys(text)] == ["first", "second"]
    assert main(["new", "second", "--file", str(path)]) == 1
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_file_the_entry_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key alone is on standard output, so that it can be piped; API_KEYS_FILE names the file otherwise."""
    monkeypatch.delenv("API_KEYS_FILE", raising=False)
    assert main(["new", "alice"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert f'sha256: "{digest(shown.out.strip()).hex()}"' in shown.err
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "k.yaml"))
    assert main(["new", "alice"]) == 0
    assert (tmp_path / "k.yaml").exists()


def test_a_bad_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It would be a name in logs and folders."""
    assert main(["new", "../x"]) == 1
    assert "name" in capsys.readouterr().err
