"""Downloads: resumed, verified, pinned, renamed into place only when whole."""

import hashlib
import json
import random
import threading
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.fetch import Fetcher, may_see_token, partial_path
from provisioning.pins import Download, Pins
from provisioning.progress import Lines
from tests.provisioning.servers import FileServer

DATA = random.Random(1).randbytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock.json"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "a" / "model.bin"


def fetcher(lock: Path, token: str | None = None) -> Fetcher:
    return Fetcher(pins=Pins(lock), progress=Lines(), hf_token=token, stopped=threading.Event(), retry_wait_s=0.001)


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_whole_file_arrives_and_is_not_asked_for_again(server: FileServer, target: Path, lock: Path) -> None:
    """The first fetch pins the hash; the second one finds the verified file and sends nothing."""
    url = server.add("/m", DATA)
    assert fetcher(lock).fetch(Download(url=url, target=target)) == len(DATA)
    assert target.read_bytes() == DATA
    assert leftovers(target) == []
    assert json.loads(lock.read_text())["urls"] == {url: SHA}
    assert fetcher(lock).fetch(Download(url=url, target=target)) == 0
    assert len(server.requests) == 1


def test_broken_connection_is_resumed_where_it_broke(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA, etag='"v1"', cut_after=[1_500_000, 700_000])
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA, size_bytes=len(DATA)))
    assert target.read_bytes() == DATA
    assert "Range" not in server.requests[0].headers
    offsets = [int(request.headers["Range"][6:-1]) for request in server.requests[1:]]
    assert offsets == sorted(offsets)
    assert 0 < offsets[0] < offsets[1] < len(DATA)


def test_next_start_resumes_what_an_earlier_one_left(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(DATA[:1_000_000])
    assert fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA)) == 2_000_000
    assert server.requests[0].headers["Range"] == "bytes=1000000-"
    assert target.read_bytes() == DATA


def test_complete_leftover_only_needs_its_name(server: FileServer, target: Path, lock: Path) -> None:
    """Killed between the last byte and the rename: the server's 416 with the same length ends it."""
    url = server.add("/m", DATA)
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(DATA)
    assert fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA)) == 0
    assert target.read_bytes() == DATA


def test_leftover_without_any_proof_is_not_trusted(server: FileServer, target: Path, lock: Path) -> None:
    """No hash and no validator: bytes of another version would be pinned for ever."""
    url = server.add("/m", DATA)
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(b"x" * 1000)
    fetcher(lock).fetch(Download(url=url, target=target))
    assert target.read_bytes() == DATA


def test_changed_file_is_fetched_anew(server: FileServer, target: Path, lock: Path) -> None:
    """If-Range: the server's other version comes from its beginning."""
    url = server.add("/m", DATA, etag='"v2"')
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(b"x" * 1000)
    partial_path(target).with_name(f"{partial_path(target).name}.etag").write_text('"v1"')
    fetcher(lock).fetch(Download(url=url, target=target))
    assert server.requests[0].headers["If-Range"] == '"v1"'
    assert target.read_bytes() == DATA


def test_server_without_ranges_is_started_over(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA, ranges=False, cut_after=[2_000_000])
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    assert target.read_bytes() == DATA


def test_leftover_with_a_wrong_beginning_is_repaired(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(b"x" * 1000)
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    assert target.read_bytes() == DATA


def test_leftover_longer_than_the_file_is_discarded(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(DATA + b"more")
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    assert target.read_bytes() == DATA


def test_wrong_hash_leaves_nothing(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    with pytest.raises(ProvisioningError, match=f"{SHA}.*{'0' * 64}"):
        fetcher(lock).fetch(Download(url=url, target=target, sha256="0" * 64))
    assert not target.exists()
    assert leftovers(target) == []
    assert len(server.requests) == 1


def test_wrong_size_is_refused_before_the_first_byte(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    with pytest.raises(ProvisioningError, match="3000000 bytes, 2999999 were expected"):
        fetcher(lock).fetch(Download(url=url, target=target, size_bytes=2_999_999))
    assert not target.exists()
    assert leftovers(target) == []


def test_pinned_hash_refuses_another_file_later(server: FileServer, target: Path, lock: Path) -> None:
    """What the manifest doesn't pin is pinned by the first download."""
    url = server.add("/m", DATA)
    fetcher(lock).fetch(Download(url=url, target=target))
    target.unlink()
    server.add("/m", b"replaced")
    with pytest.raises(ProvisioningError, match="the first download"):
        fetcher(lock).fetch(Download(url=url, target=target))
    assert not target.exists()


def test_overload_is_waited_out(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA, statuses=[503, 429])
    fetcher(lock).fetch(Download(url=url, target=target))
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusal_is_final(server: FileServer, target: Path, lock: Path, status: int) -> None:
    url = server.add("/m", DATA, statuses=[status] * 3)
    with pytest.raises(ProvisioningError, match=str(status)):
        fetcher(lock).fetch(Download(url=url, target=target))
    assert len(server.requests) == 1


def test_unreachable_server_is_named(target: Path, lock: Path) -> None:
    with pytest.raises(ProvisioningError, match=r"127\.0\.0\.1:9"):
        fetcher(lock).fetch(Download(url="http://127.0.0.1:9/m", target=target))


def test_operators_own_file_is_adopted(server: FileServer, target: Path, lock: Path) -> None:
    """Nothing is known of it, so it is kept, without a request."""
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    assert fetcher(lock).fetch(Download(url=server.add("/m", DATA), target=target)) == 0
    assert target.read_bytes() == b"mine"
    assert server.requests == []


def test_random_checkpoint_gives_way_to_the_real_one(server: FileServer, target: Path, lock: Path) -> None:
    """A host that got a GPU replaces the stand-in that we made ourselves."""
    target = target.with_suffix(".safetensors")
    target.parent.mkdir(parents=True)
    header = json.dumps({"__metadata__": {"pyworker.random_weights": "true"}}, separators=(",", ":")).encode()
    target.write_bytes(len(header).to_bytes(8, "little") + header)
    fetcher(lock).fetch(Download(url=server.add("/m", DATA), target=target))
    assert target.read_bytes() == DATA


def test_changed_file_on_disk_is_verified_again(server: FileServer, target: Path, lock: Path) -> None:
    url = server.add("/m", DATA)
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    target.write_bytes(b"damaged")
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    assert target.read_bytes() == DATA


def test_redirect_is_followed(server: FileServer, target: Path, lock: Path) -> None:
    server.add("/real", DATA)
    url = server.add("/m", b"", location="/real")
    fetcher(lock).fetch(Download(url=url, target=target, sha256=SHA))
    assert target.read_bytes() == DATA


def test_token_stays_with_hugging_face(server: FileServer, target: Path, lock: Path) -> None:
    fetcher(lock, token="hf_secret").fetch(Download(url=server.add("/m", DATA), target=target))
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://huggingface.co/a/resolve/main/b", True),
        ("http://huggingface.co/a", False),
        ("https://huggingface.co.evil.example/a", False),
        ("https://user@huggingface.co/a", False),
        ("https://cdn.huggingface.co/a", False),
        ("https://example.com/huggingface.co", False),
    ],
)
def test_only_hugging_face_sees_the_token(url: str, may: bool) -> None:
    assert may_see_token(url) is may


def test_stopped_download_keeps_what_it_has(server: FileServer, target: Path, lock: Path) -> None:
    work = fetcher(lock)
    work.stopped.set()
    with pytest.raises(ProvisioningError, match="stopped"):
        work.fetch(Download(url=server.add("/m", DATA), target=target))
    assert not target.exists()


@pytest.mark.parametrize("answered", [True, False])
def test_a_token_in_the_address_is_not_told(server: FileServer, target: Path, lock: Path, answered: bool) -> None:
    """Neither when the server refuses, nor when there is none: the text is shown on the health page."""
    base = server.add("/m", DATA).removesuffix("/m") if answered else "http://127.0.0.1:1"
    with pytest.raises(ProvisioningError) as caught:
        fetcher(lock).fetch(Download(url=f"{base}/absent?token=s3cret", target=target))
    assert "/absent" in str(caught.value) and "s3cret" not in str(caught.value)
