"""Vast's request signature: RSA PKCS#1 v1.5 over SHA-256 of a JSON text, in the four forms that were ever in use.

The worker rebuilds the text from the values that the client sent. Form D (since 2026-01) covers the URL alone and
never expires, so it proves that a router once named a worker, not who the caller is: hence the own-URL check.
Replayed form A-C signatures are accepted like form D ones.
"""

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from lib.errors import Unauthorized
from lib.protocol.urls import OwnUrls
from lib.settings import SettingsError

AUTH_FIELDS = ("cost", "endpoint", "reqnum", "request_idx", "signature", "url")
"""The six keys that ``auth_data`` must have."""

_CACHE_SIZE = 1024


class SignatureForm(StrEnum):
    """Which fields are signed, in which order."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


_SIGNED_FIELDS: dict[SignatureForm, tuple[str, ...]] = {
    SignatureForm.A: ("cost", "endpoint", "reqnum", "url"),
    SignatureForm.B: ("cost", "endpoint", "reqnum", "url", "request_idx"),
    SignatureForm.C: ("cost", "endpoint", "reqnum", "request_idx", "url"),
    SignatureForm.D: ("url",),
}


class KeySource(Protocol):
    """Where public keys come from (``lib.fleet.pubkey``)."""

    @property
    def keys(self) -> tuple[RSAPublicKey, ...]:
        """The trusted keys now; a new tuple object whenever they change."""
        ...

    async def refresh(self) -> None:
        """Fetch the keys again, unless that was done a moment ago."""
        ...


def signed_text(form: SignatureForm, fields: Mapping[str, Any]) -> bytes:
    """Return the exact bytes that a signature of this form covers. Raises KeyError when a field is missing."""
    return json.dumps({name: fields[name] for name in _SIGNED_FIELDS[form]}, indent=4).encode()


def sign(form: SignatureForm, fields: Mapping[str, Any], key: RSAPrivateKey) -> str:
    """Return the base64 signature that a router puts into its answer."""
    return base64.b64encode(key.sign(signed_text(form, fields), PKCS1v15(), SHA256())).decode()


def verify(form: SignatureForm, fields: Mapping[str, Any], key: RSAPublicKey) -> bool:
    """Whether ``fields["signature"]`` is a signature of this form over the other fields."""
    try:
        signature = base64.b64decode(str(fields["signature"]), validate=True)
        key.verify(signature, signed_text(form, fields), PKCS1v15(), SHA256())
    except (InvalidSignature, KeyError, TypeError, ValueError, binascii.Error):
        return False
    return True


def load_public_key(pem: bytes) -> RSAPublicKey:
    """Parse what ``GET /pubkey/`` answers. Raises ValueError."""
    try:
        key = load_pem_public_key(pem.strip())
    except UnsupportedAlgorithm as error:
        raise ValueError("not a supported public key") from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA public key")
    return key


class SignatureCheck:
    """Says yes or no to the ``auth_data`` of a request. Remembers accepted form D signatures, so that a caller who
    keeps one costs a look-up only. Raises SettingsError for a form or an own URL that makes no sense."""

    def __init__(
        self, *, keys: KeySource, forms: Iterable[str], own_urls: Iterable[str], check_url: bool, unsecured: bool
    ) -> None:
        self.keys = keys
        self._forms = tuple(_form(name) for name in forms)
        self._own_urls = OwnUrls(own_urls)
        self._check_url = check_url
        self.unsecured = unsecured
        self._accepted: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._accepted_under: tuple[RSAPublicKey, ...] = ()

    async def check(self, fields: Mapping[str, Any]) -> None:
        """Return when ``fields`` (complete ``auth_data``) open this worker. Raises Unauthorized."""
        if self.unsecured:
            return
        self.check_own_url(str(fields.get("url", "")))
        if self._verified(fields):
            return
        await self.keys.refresh()
        if self._verified(fields):
            return
        if not self.keys.keys:
            raise Unauthorized("This worker has no public key of its autoscaler yet, so it can verify no signature.")
        raise Unauthorized("The signature in auth_data does not fit; ask /route/ for a new one.")

    def check_own_url(self, url: str) -> None:
        """Return when this URL is ours, or nobody asks. Raises Unauthorized."""
        if not self._check_url or url in self._own_urls:
            return
        if not self._own_urls:
            raise Unauthorized(
                "This worker does not know its own address: set PUBLIC_IPADDR, or SIGNATURE_CHECK_URL=false."
            )
        raise Unauthorized("auth_data.url names another worker; send the request there, or ask /route/ again.")

    def _verified(self, fields: Mapping[str, Any]) -> bool:
        keys = self.keys.keys
        if keys is not self._accepted_under:
            self._accepted.clear()
            self._accepted_under = keys
        cache_key = (str(fields.get("signature")), str(fields.get("url")))
        if cache_key in self._accepted:
            self._accepted.move_to_end(cache_key)
            return True
        form = next((form for form in self._forms if any(verify(form, fields, key) for key in keys)), None)
        if form is SignatureForm.D:
            self._remember(cache_key)
        return form is not None

    def _remember(self, cache_key: tuple[str, str]) -> None:
        self._accepted[cache_key] = None
        if len(self._accepted) > _CACHE_SIZE:
            self._accepted.popitem(last=False)


def _form(name: str) -> SignatureForm:
    try:
        return SignatureForm(name.upper())
    except ValueError:
        raise SettingsError(f"SIGNATURE_FORMS={name!r}: expected a comma list of A, B, C, D") from None
