"""Signatures of requests: exact bytes, all forms, whose URL, which key."""

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lib.errors import Unauthorized
from lib.protocol.auth import SignatureCheck, SignatureForm, load_public_key, sign, signed_text, verify
from lib.settings import SettingsError
from tests.fakes.autoscaler import new_key, public_pem

URL = "https://203.0.113.9:40001"
FIELDS: dict[str, Any] = {"cost": 100.0, "endpoint": "ep", "reqnum": 7, "request_idx": 3, "url": URL}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def other_key() -> rsa.RSAPrivateKey:
    return new_key()


class Keys:
    """A key source under the test's control; ``next_keys`` come with the next refresh."""

    def __init__(self, *keys: rsa.RSAPrivateKey) -> None:
        self.keys = tuple(key.public_key() for key in keys)
        self.next_keys = self.keys
        self.refresh_count = 0

    async def refresh(self) -> None:
        self.refresh_count += 1
        self.keys = self.next_keys


def checker(keys: Keys, **changes: Any) -> SignatureCheck:
    options: dict[str, Any] = {"forms": ("D", "C"), "own_urls": [URL], "check_url": True, "unsecured": False}
    return SignatureCheck(keys=keys, **{**options, **changes})


def test_the_signed_text_of_form_d_is_exactly_the_url() -> None:
    """The bytes are those of the protocol: four spaces, no newline at the end."""
    assert signed_text(SignatureForm.D, FIELDS) == b'{\n    "url": "https://203.0.113.9:40001"\n}'


def test_the_signed_text_of_the_older_forms_keeps_their_order() -> None:
    """A has no request_idx, B has it last, C is sorted; 100.0 stays a float."""
    assert signed_text(SignatureForm.A, FIELDS).decode() == (
        '{\n    "cost": 100.0,\n    "endpoint": "ep",\n    "reqnum": 7,\n    "url": "https://203.0.113.9:40001"\n}'
    )
    assert signed_text(SignatureForm.B, FIELDS).decode().endswith(f'"url": "{URL}",\n    "request_idx": 3\n}}')
    assert signed_text(SignatureForm.C, FIELDS).decode().endswith(f'"request_idx": 3,\n    "url": "{URL}"\n}}')


def test_signed_text_escapes_what_is_not_ascii() -> None:
    """Non-ASCII characters are signed as \\u escapes."""
    assert b"\\u00fc" in signed_text(SignatureForm.A, {**FIELDS, "endpoint": "\u00fc"})


@pytest.mark.parametrize("form", list(SignatureForm))
def test_each_form_verifies_what_it_signed_and_nothing_else(form: SignatureForm, key: rsa.RSAPrivateKey) -> None:
    """A change in any signed field breaks the signature; changes elsewhere don't."""
    signed = {**FIELDS, "signature": sign(form, FIELDS, key)}
    assert verify(form, signed, key.public_key())
    assert not verify(form, {**signed, "url": URL + "0"}, key.public_key())
    assert verify(form, {**signed, "cost": 1}, key.public_key()) == (form is SignatureForm.D)
    idx_is_signed = form in (SignatureForm.B, SignatureForm.C)
    assert verify(form, {**signed, "request_idx": 4}, key.public_key()) != idx_is_signed


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "\u00fc", None, 5, {"a": 1}])
def test_a_signature_that_is_none_is_refused(signature: Any, key: rsa.RSAPrivateKey) -> None:
    """Rubbish is a no, not an exception."""
    assert not verify(SignatureForm.D, {**FIELDS, "signature": signature}, key.public_key())


def test_only_rsa_public_keys_are_loaded(key: rsa.RSAPrivateKey) -> None:
    """An error page or another kind of key is a ValueError."""
    assert load_public_key(f"\n{public_pem(key)}\n".encode()) == key.public_key()
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    for pem in (b"<html>", b"", curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        with pytest.raises(ValueError):
            load_public_key(pem)


async def test_forms_that_are_not_accepted_are_refused(key: rsa.RSAPrivateKey) -> None:
    """The settings say which forms open the worker."""
    signed = {**FIELDS, "signature": sign(SignatureForm.C, FIELDS, key)}
    await checker(Keys(key)).check(signed)
    with pytest.raises(Unauthorized, match="does not fit"):
        await checker(Keys(key), forms=("D",)).check(signed)


async def test_a_signature_for_another_worker_is_refused(key: rsa.RSAPrivateKey) -> None:
    """Form D is good for ever and for anybody; so it must at least name this worker."""
    foreign = {**FIELDS, "url": "http://203.0.113.10:1"}
    foreign["signature"] = sign(SignatureForm.D, foreign, key)
    with pytest.raises(Unauthorized, match="another worker"):
        await checker(Keys(key)).check(foreign)
    await checker(Keys(key), check_url=False).check(foreign)
    await checker(Keys(key), own_urls=[URL, "http://203.0.113.10:1/"]).check(foreign)


async def test_a_worker_that_does_not_know_its_url_says_so(key: rsa.RSAPrivateKey) -> None:
    """No PUBLIC_IPADDR: refused, with the remedy."""
    signed = {**FIELDS, "signature": sign(SignatureForm.D, FIELDS, key)}
    with pytest.raises(Unauthorized, match="PUBLIC_IPADDR"):
        await checker(Keys(key), own_urls=[""]).check(signed)


async def test_a_rotated_key_heals_by_itself(key: rsa.RSAPrivateKey, other_key: rsa.RSAPrivateKey) -> None:
    """A failed verification fetches the keys again; what the old key signed is out, cached or not."""
    keys = Keys(key)
    check = checker(keys)
    old = {**FIELDS, "signature": sign(SignatureForm.D, FIELDS, key)}
    new = {**FIELDS, "signature": sign(SignatureForm.D, FIELDS, other_key)}
    await check.check(old)
    keys.next_keys = (other_key.public_key(),)
    await check.check(new)
    assert keys.refresh_count == 1
    with pytest.raises(Unauthorized):
        await check.check(old)


async def test_an_accepted_form_d_signature_is_not_computed_again(key: rsa.RSAPrivateKey) -> None:
    """The pair of signature and URL is remembered, and only that pair."""
    use_count = 0

    class Counted(tuple[rsa.RSAPublicKey, ...]):
        def __iter__(self) -> Iterator[rsa.RSAPublicKey]:
            nonlocal use_count
            use_count += 1
            return super().__iter__()

    keys = Keys(key)
    keys.keys = keys.next_keys = Counted(keys.keys)
    check = checker(keys, check_url=False)
    signed = {**FIELDS, "signature": sign(SignatureForm.D, FIELDS, key)}
    await check.check(signed)
    await check.check(signed)
    assert use_count == 1
    with pytest.raises(Unauthorized):
        await check.check({**signed, "url": "http://203.0.113.10:1"})


async def test_without_a_key_nothing_is_accepted(key: rsa.RSAPrivateKey) -> None:
    """No public key yet: 401 that says why."""
    signed = {**FIELDS, "signature": sign(SignatureForm.D, FIELDS, key)}
    with pytest.raises(Unauthorized, match="no public key"):
        await checker(Keys()).check(signed)


async def test_unsecured_accepts_anything() -> None:
    """UNSECURED=true skips the check, even without keys."""
    await checker(Keys(), unsecured=True).check({"url": "http://elsewhere"})


def test_settings_that_make_no_sense_stop_the_start() -> None:
    """An unknown form, an alias that is no URL: the variable is named."""
    with pytest.raises(SettingsError, match="SIGNATURE_FORMS='Z'"):
        checker(Keys(), forms=("Z",))
    with pytest.raises(SettingsError, match="WORKER_URL_ALIASES"):
        checker(Keys(), own_urls=[URL, "worker.example"])
