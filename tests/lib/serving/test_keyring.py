"""API keys from file and environment: what is read, what is refused, how a change of the file counts."""

import asyncio
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.serving.keyring import ApiKey, KeyRing, digest, file_keys, key_ring, listed_keys
from lib.settings import AccessSettings, SettingsError
from tests.fakes.clock import FakeClock

KEY = "a-random-key-of-some-length"
ENTRY = f'- name: alice\n  tenant: studio\n  sha256: "{digest(KEY).hex()}"\n'
WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(
    name=WORDS, tenant=st.none() | WORDS, admin=st.booleans(), hashed=st.booleans(), key=st.text("aB3:_-", min_size=16)
)
def test_the_environment_lists_keys(name: str, tenant: str | None, admin: bool, hashed: bool, key: str) -> None:
    """[tenant/]name[+admin]:key, or its hash; a tenant is the name where none is given."""
    shown = f"sha256:{digest(key).hex()}" if hashed else key
    (found,) = listed_keys(f"{tenant + '/' if tenant else ''}{name}{'+admin' if admin else ''}:{shown}")
    assert found == ApiKey(name=name, tenant=tenant or name, sha256=digest(key), admin=admin)


@pytest.mark.parametrize(
    "text", [KEY, "a:short", f":{KEY}", f"a b:{KEY}", f"a/b/c:{KEY}", "a:sha256:12", f"a+root:{KEY}", f"ok:{KEY},b:"]
)
def test_a_bad_list_is_refused_without_telling_keys(text: str) -> None:
    """The number of the entry is told, the key is not."""
    with pytest.raises(SettingsError, match=r"API_KEYS, entry [12]") as caught:
        listed_keys(text)
    assert KEY not in str(caught.value)


def test_the_file_says_what_a_key_may() -> None:
    """Tenant, scopes and limits; what is not said has its default."""
    full = ENTRY + "  scopes: [jobs, admin]\n  requests_per_minute: 0.5\n  max_in_flight: 2\n"
    assert file_keys(full) == [
        ApiKey(
            name="alice",
            tenant="studio",
            sha256=digest(KEY),
            admin=True,
            requests_per_minute=0.5,
            max_in_flight=2,
        )
    ]
    (plain,) = file_keys(ENTRY.replace("  tenant: studio\n", ""))
    assert (plain.tenant, plain.admin, plain.max_in_flight) == ("alice", False, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list"),
        ("keys: 1", "list"),
        ("- [", "not YAML"),
        ("- name: a", "0.sha256"),
        (ENTRY + "  sha265: x\n", "0.sha265"),
        (ENTRY + "  max_in_flight: 0\n", "0.max_in_flight"),
        (ENTRY + "  requests_per_minute: .nan\n", "0.requests_per_minute"),
        (ENTRY + "  scopes: [root]\n", "0.scopes"),
        (ENTRY + "  scopes: []\n", "0.scopes"),
        (ENTRY.replace("alice", "../x"), "0.name"),
    ],
)
def test_a_bad_file_is_refused(text: str, said: str) -> None:
    """A typing error must not turn into a key without limits."""
    with pytest.raises(ValueError, match=said):
        file_keys(text)


def ring(path: Path, clock: FakeClock, *fixed: ApiKey) -> KeyRing:
    return KeyRing(fixed=fixed, path=path, clock=clock)


async def test_a_key_is_found_by_its_whole_text(tmp_path: Path) -> None:
    """And by nothing else."""
    path = tmp_path / "keys.yaml"
    path.write_text(ENTRY)
    keys = await asyncio.to_thread(ring, path, FakeClock())
    found = await keys.find(KEY)
    assert found is not None
    assert found.name == "alice"
    for wrong in ("", KEY[:-1], KEY + " ", digest(KEY).hex(), "\ud800"):
        assert await keys.find(wrong) is None


async def test_a_changed_file_counts_without_a_restart(tmp_path: Path) -> None:
    """A second later at most: a key is taken back, another one is good."""
    path, clock = tmp_path / "keys.yaml", FakeClock()
    path.write_text(ENTRY)
    keys = await asyncio.to_thread(ring, path, clock)
    path.write_text(ENTRY.replace(digest(KEY).hex(), digest("another key, the new one").hex()))
    await clock.advance(1.1)
    assert await keys.find(KEY) is None
    assert await keys.find("another key, the new one") is not None


@pytest.mark.parametrize("text", ["- name: [", ENTRY + ENTRY, None, ""])
async def test_a_broken_new_file_leaves_the_keys(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the old keys stay good."""
    path, clock = tmp_path / "keys.yaml", FakeClock()
    path.write_text(ENTRY)
    keys = await asyncio.to_thread(ring, path, clock)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        await clock.advance(1.1)
        assert await keys.find(KEY) is not None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    """With the setting's name; the same name or key twice is broken too."""
    path = tmp_path / "keys.yaml"
    with pytest.raises(SettingsError, match=r"API_KEYS_FILE=.*No such file"):
        ring(path, FakeClock())
    path.write_text(ENTRY)
    with pytest.raises(SettingsError, match="two keys have the name alice"):
        ring(path, FakeClock(), ApiKey(name="alice", tenant="x", sha256=b"1"))
    with pytest.raises(SettingsError, match="bob and alice are the same key"):
        ring(path, FakeClock(), ApiKey(name="bob", tenant="x", sha256=digest(KEY)))


async def test_both_sources_count(tmp_path: Path) -> None:
    """Keys of the environment stand beside those of the file; neither is the setting's own text."""
    path = tmp_path / "keys.yaml"
    path.write_text(ENTRY)
    settings = AccessSettings(api_keys=f"ops+admin:{KEY}-2", api_keys_file=path)  # type: ignore[arg-type]
    keys = await asyncio.to_thread(key_ring, settings, clock=FakeClock())
    assert len(keys) == 2
    found = await keys.find(f"{KEY}-2")
    assert found is not None
    assert found.admin
    assert KEY not in repr(settings)
