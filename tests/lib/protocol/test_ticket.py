"""Tickets: whose, for whom, how long, how often; the text can't be bent."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from lib.errors import Unauthorized
from lib.protocol.auth import SignatureCheck
from lib.protocol.ticket import SpentTickets, TicketCheck, TicketKey, Vouched, new_ticket_key, read_ticket, ticket_of
from tests.fakes.autoscaler import new_key

URL, NOW = "https://203.0.113.9:40001", 1_000_000.0


class Keys:
    """A key source under the test's control."""

    def __init__(self, *keys: RSAPrivateKey) -> None:
        self.keys = tuple(key.public_key() for key in keys)
        self.next_keys = self.keys

    async def refresh(self) -> None:
        self.keys = self.next_keys


@pytest.fixture(scope="module")
def rsa() -> RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def other() -> RSAPrivateKey:
    return new_key()


@pytest.fixture
def issuer(rsa: RSAPrivateKey) -> TicketKey:
    return new_ticket_key(rsa, now=NOW, life_s=86_400)


def issue(issuer: TicketKey, **changes: Any) -> str:
    return issuer.issue(**{"url": URL, "request_idx": 7, "now": NOW, "life_s": 300, **changes})


def checker(*keys: RSAPrivateKey, now: float = NOW, source: Keys | None = None) -> TicketCheck:
    signatures = SignatureCheck(
        keys=source or Keys(*keys), forms=("D",), own_urls=[URL], check_url=True, unsecured=False
    )
    return TicketCheck(signatures, now=lambda: now)


def test_a_ticket_says_what_it_was_issued_for(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """Worker, request and end come back, the routers' RSA key being all that is needed."""
    ticket = read_ticket(issue(issuer), [rsa.public_key()], now=NOW)
    assert (ticket.url, ticket.request_idx, ticket.expires_at) == (URL, 7, NOW + 300)


def test_a_ticket_names_tenant_and_base_where_it_has_them(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """Those of routers before them are read as before."""
    key = [rsa.public_key()]
    relayed = read_ticket(issue(issuer, sub="images/studio", base="https://router/w/images/7"), key, now=NOW)
    assert (relayed.sub, relayed.base) == ("images/studio", "https://router/w/images/7")
    plain = issue(issuer)
    assert set(json.loads(base64.urlsafe_b64decode(plain.split(".")[1] + "=="))) == {"exp", "jti", "url", "idx"}
    assert (read_ticket(plain, key, now=NOW).sub, read_ticket(plain, key, now=NOW).base) == ("", "")


def test_another_routers_ticket_is_refused(other: RSAPrivateKey, issuer: TicketKey) -> None:
    """The certificate must be by a key that this worker trusts."""
    with pytest.raises(Unauthorized):
        read_ticket(issue(issuer), [other.public_key()], now=NOW)


def test_a_ticket_ends(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """With some leeway for clocks that differ."""
    assert read_ticket(issue(issuer), [rsa.public_key()], now=NOW + 320)
    with pytest.raises(Unauthorized, match="over"):
        read_ticket(issue(issuer), [rsa.public_key()], now=NOW + 331)


def test_a_tickets_key_ends(rsa: RSAPrivateKey) -> None:
    """A key that leaked from a router's memory is worth something for a day only."""
    issuer = new_ticket_key(rsa, now=NOW, life_s=100)
    text = issue(issuer, life_s=1000)
    with pytest.raises(Unauthorized):
        read_ticket(text, [rsa.public_key()], now=NOW + 200)


def test_what_was_vouched_for_is_not_believed_for_ever(
    rsa: RSAPrivateKey, other: RSAPrivateKey, issuer: TicketKey
) -> None:
    """Neither after its end, nor under other keys of routers, nor in a certificate that was changed."""
    keys, vouched = (rsa.public_key(),), Vouched()
    short = new_ticket_key(rsa, now=NOW, life_s=100)
    for one in (issuer, short, issuer):
        assert read_ticket(issue(one), keys, now=NOW, vouched=vouched)
    with pytest.raises(Unauthorized):
        read_ticket(issue(short, life_s=1000), keys, now=NOW + 200, vouched=vouched)
    with pytest.raises(Unauthorized):
        read_ticket(issue(issuer), (other.public_key(),), now=NOW, vouched=vouched)
    mixed = ".".join([*issue(issuer).split(".")[:3], short.certificate])
    with pytest.raises(Unauthorized):
        read_ticket(mixed, keys, now=NOW, vouched=vouched)


def test_no_byte_of_a_ticket_can_be_changed(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """Nor can parts of two tickets be put together."""
    text, second = issue(issuer), issue(issuer, request_idx=8)
    for place in range(0, len(text), 7):
        bent = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(Unauthorized):
            read_ticket(bent, [rsa.public_key()], now=NOW)
    mixed = ".".join([*second.split(".")[:2], *text.split(".")[2:]])
    with pytest.raises(Unauthorized):
        read_ticket(mixed, [rsa.public_key()], now=NOW)


@pytest.mark.parametrize("text", ["", "v1", "v1....", "v2.a.b.c.d", "v1.é.b.c.d", "v1." + "a." * 3 + "x" * 5000])
def test_nonsense_is_refused(text: str, rsa: RSAPrivateKey) -> None:
    """Callers are strangers."""
    with pytest.raises(Unauthorized):
        read_ticket(text, [rsa.public_key()], now=NOW)


async def test_a_ticket_is_good_once(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """Who copied a request can't send it again."""
    check, text = checker(rsa), issue(issuer)
    assert (await check.spend(text, request_idx=7)).request_idx == 7
    with pytest.raises(Unauthorized, match="before"):
        await check.spend(text, request_idx=7)


async def test_a_ticket_is_for_one_worker_and_one_request(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """Not for the one next to it; and a refused try does not use it up."""
    check, text = checker(rsa), issue(issuer)
    with pytest.raises(Unauthorized, match="another worker"):
        await check.spend(issue(issuer, url="https://203.0.113.10:1"))
    with pytest.raises(Unauthorized, match="another request"):
        await check.spend(text, request_idx=8)
    assert await check.spend(text, request_idx=7)


async def test_new_keys_of_routers_are_fetched(rsa: RSAPrivateKey, other: RSAPrivateKey, issuer: TicketKey) -> None:
    """A router that got a new key needs no restart of its workers."""
    source = Keys(other)
    source.next_keys = (rsa.public_key(),)
    assert await checker(source=source).spend(issue(issuer))


def test_spent_tickets_are_forgotten_when_they_are_over(rsa: RSAPrivateKey, issuer: TicketKey) -> None:
    """The memory is bounded by what a router issues in a ticket's life."""
    spent, key = SpentTickets(), [rsa.public_key()]
    for number in range(20):
        at = NOW + number * 60
        spent.spend(read_ticket(issue(issuer, now=at), key, now=at), now=at)
    assert len(spent._until) <= 7


def test_a_ticket_is_found_where_it_is_text() -> None:
    """Anything else in its place is none."""
    assert ticket_of({"ticket": "x"}) == "x"
    assert ticket_of({"ticket": 5}) == "" == ticket_of({})
