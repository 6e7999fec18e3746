"""lib.storage.vault: the key file, what is sealed with it, and what is derived from it."""

import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import StorageFailed
from lib.storage.vault import Unreadable, Vault


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_in_its_place_only(data: bytes, place: str) -> None:
    """Not elsewhere, not with another key, not changed by a bit."""
    vault = Vault.random()
    sealed = vault.seal(data, place)
    assert vault.unseal(sealed, place) == data
    spoiled = bytes([sealed[0] ^ 1]) + sealed[1:]
    for opener, bytes_, where in (
        (vault, sealed, place + "x"),
        (Vault.random(), sealed, place),
        (vault, spoiled, place),
    ):
        with pytest.raises(Unreadable):
            opener.unseal(bytes_, where)


@pytest.mark.parametrize("torn", [b"", b"x", b"x" * 12, b"x" * 20])
def test_torn_bytes_are_unreadable(torn: bytes) -> None:
    """Also when there is less than a nonce."""
    with pytest.raises(Unreadable):
        Vault.random().unseal(torn, "here")


def test_no_nonce_comes_twice() -> None:
    """Within a vault they are counted, and two vaults of one key begin elsewhere."""
    key = b"k" * 32
    sealed = [vault.seal(b"", "here")[:12] for vault in (Vault(key), Vault(key)) for _ in range(2000)]
    assert len(set(sealed)) == 4000


def test_derived_keys_are_stable_and_apart() -> None:
    """By purpose and by master key."""
    vault, again, other = Vault(b"k" * 32), Vault(b"k" * 32), Vault(b"K" * 32)
    assert vault.derive("urls") == again.derive("urls")
    assert len({vault.derive("urls"), vault.derive("rows"), other.derive("urls"), b"k" * 32}) == 4
    assert len(vault.derive("urls")) == 32


def test_the_key_file_is_made_once_and_for_us_only(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask says; the second start reads what the first one made."""
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        first = Vault.open(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Vault.open(path).unseal(first.seal(b"data", "p"), "p") == b"data"
    assert [found.name for found in tmp_path.iterdir()] == ["key"]


def test_a_key_that_others_can_read_is_tightened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And it is said; a stricter mode than ours is left alone."""
    path = tmp_path / "key"
    Vault.open(path)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        Vault.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [record.event for record in caplog.records] == ["store.key_tightened"]  # type: ignore[attr-defined]
    path.chmod(0o400)
    Vault.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


@pytest.mark.parametrize("text", ["", "secret", "00" * 31, "é" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """It is never overwritten: it may be somebody's only copy."""
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StorageFailed, match="is not a key of ours"):
        Vault.open(path)
    assert path.read_text(encoding="utf-8") == text


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / "key").mkdir()
    with pytest.raises(StorageFailed, match=str(tmp_path)):
        Vault.open(tmp_path / "key")
