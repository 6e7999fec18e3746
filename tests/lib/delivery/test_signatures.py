"""Signatures of webhooks, against published vectors and the receivers' own library."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from lib.delivery.signatures import (
    HEADERS,
    MOST_KEYS,
    UnusableSecret,
    check_secret,
    lenient_key,
    raw_signature,
    standard_headers,
    standard_keys,
)
from lib.errors import InvalidRequest
from lib.jobs.model import JobEvent, OutboxItem, WebhookScheme, WebhookTarget

BODY = b'{"type":"job.completed","text":"\xc3\xa4"}'
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER = base64.b64encode(b"the key that comes after it").decode()


def test_the_wrappers_signature() -> None:
    """HMAC-SHA256 over the exact body, keyed with the raw secret, in lowercase hex."""
    assert raw_signature(BODY, "geheim") == "sha256=" + hmac.new(b"geheim", BODY, hashlib.sha256).hexdigest()


def test_the_published_vector() -> None:
    """Signed text, encoding and version are Standard Webhooks'; a key is bytes, however a dialect reads its secret."""
    headers = standard_headers(
        message_id="abc",
        at=datetime.fromtimestamp(1700000000, UTC),
        body=b'{"type":"prompt.complete","id":"abc"}',
        keys=[bytes.fromhex("b5eb2db1e72b7a")],
    )
    assert headers == {
        "webhook-id": "abc",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1,1hteqHrI0WOg/F9wvvIt476Eq71ZFeVfSKymy+lezLg=",
    }


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), OTHER, OTHER.rstrip("=")])
def test_receivers_verify(secret: str) -> None:
    """With the prefix or not, padded or not: the library of a receiver agrees, and notices a changed body."""
    headers = standard_headers(message_id="msg_1", at=datetime.now(UTC), body=BODY, keys=standard_keys(secret))
    assert Webhook(secret).verify(BODY, headers)["type"] == "job.completed"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)


def test_a_secret_can_be_replaced() -> None:
    """Two secrets make two signatures, so that receivers with the old one and with the new one verify."""
    headers = standard_headers(
        message_id="msg_1", at=datetime.now(UTC), body=BODY, keys=standard_keys(f"{SECRET} {OTHER}")
    )
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(BODY, headers)


def test_without_a_secret_there_is_no_signature() -> None:
    """Id and time are told anyway."""
    headers = standard_headers(message_id="msg_1", at=datetime.now(UTC), body=BODY, keys=())
    assert set(headers) == {"webhook-id", "webhook-timestamp"}


def test_a_secret_has_a_few_keys_at_most() -> None:
    """Each one signs each attempt; a million of them would keep everybody waiting."""
    assert len(standard_keys(" ".join([SECRET] * MOST_KEYS))) == MOST_KEYS
    with pytest.raises(UnusableSecret, match="more than"):
        standard_keys("YQ== " * 1_000_000)


@pytest.mark.parametrize("secret", ["geheim!", "whsec_", "", "  ", f"{SECRET} not-base64", "abcde", "whsec_ÄÖ"])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    """Before any GPU time is spent, at the field, and without repeating it."""
    with pytest.raises(InvalidRequest) as caught:
        check_secret(secret)
    problem = {"loc": ["body", "input", "webhook", "secret"], "msg": caught.value.message, "type": "value_error"}
    assert caught.value.details["errors"] == [problem]
    assert caught.value.message.startswith("input.webhook.secret is ")
    assert "base64" in caught.value.message
    assert not secret.strip() or secret not in caught.value.message.replace("whsec_ and", "")
    with pytest.raises(UnusableSecret):
        standard_keys(secret)


def test_good_secrets_pass() -> None:
    """Nothing is said about them."""
    check_secret(SECRET)
    check_secret(f"{SECRET} {OTHER}")


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("testsecret", "b5eb2db1e72b7a"),
        ("whsec_testsecret", "b5eb2db1e72b7a"),
        ("a", ""),
        ("abcde", "69b71d"),
        ("ab=cd", "69"),
        ("ab c", "69b7"),
        ("_-+/", base64.b64decode("/++/").hex()),
        ("\u00e4ab", "69"),
        ("", ""),
    ],
)
def test_salads_secrets_are_read_as_node_reads_them(secret: str, key: str) -> None:
    """Up to the first ``=``, foreign signs passed over, both alphabets, a lone sign at the end dropped."""
    assert lenient_key(secret).hex() == key


@pytest.mark.parametrize(
    ("secret", "signature"),
    [
        ("testsecret", "v1,1hteqHrI0WOg/F9wvvIt476Eq71ZFeVfSKymy+lezLg="),
        (None, "v1,ThUUhtnxp/LBK8+3gxLWOinsRiCR5dHjPJ+FKFw2evE="),
    ],
)
def test_salads_vectors(secret: str | None, signature: str) -> None:
    """The message is called as the request; without a secret it is signed with the empty key."""
    at = datetime.fromtimestamp(1700000000, UTC)
    item = OutboxItem(
        message_id="msg_1",
        job_id="j",
        owner="",
        event=JobEvent.COMPLETED,
        target=WebhookTarget(url="https://h", scheme=WebhookScheme.SALAD_SIGNED, secret=secret, message_name="abc"),
        body=b'{"type":"prompt.complete","id":"abc"}',
        created_at=at,
        next_at=at,
    )
    expected = {"webhook-id": "abc", "webhook-timestamp": "1700000000", "webhook-signature": signature}
    assert HEADERS[WebhookScheme.SALAD_SIGNED](item, at) == expected
    assert HEADERS[WebhookScheme.SALAD](item, at) == {}
