"""The router's key and what it signs, as workers check it."""

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lib.protocol.auth import AUTH_FIELDS, SignatureForm, load_public_key, verify
from lib.protocol.ticket import read_ticket
from lib.settings import SettingsError
from router.model import Condition, WorkerView
from router.ports import WorkerRecord
from router.registry import Worker
from router.signing import RouteFields, Signing, load_signing_key
from tests.fakes.autoscaler import new_key
from tests.fakes.clock import FakeClock

URL = "http://10.0.0.1:3000"
FIELDS = RouteFields(endpoint="ep", cost=100.0, reqnum=3, request_idx=9)


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return new_key()


def worker(**report: Any) -> Worker:
    record = WorkerRecord(
        worker="ep/1", endpoint="ep", id=1, group="g", url=URL, report=report, heard_at=0.0, first_at=0.0
    )
    view = WorkerView(worker="ep/1", endpoint="ep", perf=1.0, condition=Condition.READY)
    return Worker(record=record, heard_at=0.0, view=view)


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    """Workers fetch the public key once: another one after a restart would lock every client out."""
    path = tmp_path / "state" / "key.pem"
    first, second = load_signing_key(path), load_signing_key(path)
    assert first.private_numbers() == second.private_numbers()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Stock workers know RSA only; the message names the variable."""
    path = tmp_path / "key.pem"
    for data in (b"no key", ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(SettingsError, match="ROUTER_SIGNING_KEY"):
            load_signing_key(path)


@pytest.mark.parametrize(
    ("report", "form"),
    [
        ({}, SignatureForm.A),
        ({"working_request_idxs": []}, SignatureForm.B),
        ({"version": "1.0.0"}, SignatureForm.C),
        ({"version": "1.1.0"}, SignatureForm.D),
    ],
)
async def test_each_worker_can_check_what_is_signed_for_it(
    report: dict[str, Any], form: SignatureForm, key: RSAPrivateKey
) -> None:
    """With the key of ``/pubkey/``; all six fields are there, and no ticket for stock workers."""
    signing = Signing(key, clock=FakeClock())
    answer = await signing.ready(worker(**report), FIELDS)
    assert verify(form, answer, load_public_key(signing.public_pem.encode()))
    assert set(answer) == set(AUTH_FIELDS)


async def test_workers_of_ours_get_a_ticket(key: RSAPrivateKey) -> None:
    """For this request, at this worker, a new one each time."""
    clock = FakeClock()
    signing = Signing(key, clock=clock)
    answers = [await signing.ready(worker(version="1.1.0", slots=2), FIELDS) for _ in range(2)]
    now = clock.now().timestamp()
    tickets = [read_ticket(answer["ticket"], [key.public_key()], now=now) for answer in answers]
    assert {(one.url, one.request_idx) for one in tickets} == {(URL, 9)}
    assert tickets[0].id != tickets[1].id


async def test_tickets_go_on_when_their_key_ends(key: RSAPrivateKey) -> None:
    """A router runs longer than a day."""
    clock = FakeClock()
    signing = Signing(key, clock=clock)
    certificates = set()
    for _ in range(30):
        await clock.advance(3600)
        text = signing.ticket(URL, 1)
        certificates.add(text.split(".")[3])
        read_ticket(text, [key.public_key()], now=clock.now().timestamp())
    assert len(certificates) == 2


def test_a_relayed_requests_ticket_names_tenant_and_base(key: RSAPrivateKey) -> None:
    """One of direct mode has neither: it opens no more than the envelope."""
    clock = FakeClock()
    signing, now = Signing(key, clock=clock), clock.now().timestamp()
    texts = signing.ticket(URL, 1, sub="ep/studio", base="https://router/w/ep/1"), signing.ticket(URL, 1)
    relayed, direct = [read_ticket(text, [key.public_key()], now=now) for text in texts]
    assert (relayed.sub, relayed.base) == ("ep/studio", "https://router/w/ep/1")
    assert (direct.sub, direct.base) == ("", "")
