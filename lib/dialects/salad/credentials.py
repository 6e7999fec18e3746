"""Salad's credentials in the core's terms. Pure."""

import base64
from collections.abc import Iterable, Mapping

from lib.dialects.salad.schema import Auth, BasicAuth, BearerAuth, HeaderAuth, QueryAuth, SaladCredential
from lib.jobs.model import Credential

ANY_URL = "**"


def credentials(given: Iterable[SaladCredential]) -> tuple[Credential, ...]:
    """Return what a job's URLs are read with, in the caller's order."""
    return tuple(credential(item.auth, pattern=item.url_pattern) for item in given)


def credential(auth: Auth, *, pattern: str = ANY_URL) -> Credential:
    """Return one of them; ``pattern`` is by Salad's rules."""
    match auth:
        case BearerAuth(token=token):
            return _headers(pattern, "Authorization", f"Bearer {token}")
        case BasicAuth(username=name, password=password):
            encoded = base64.b64encode(f"{name}:{password}".encode()).decode("ascii")
            return _headers(pattern, "Authorization", f"Basic {encoded}")
        case HeaderAuth(header_name=name, header_value=value):
            return _headers(pattern, name, value)
        case QueryAuth(query_param=name, query_value=value):
            return _credential("query", pattern, {"query_param": name, "query_value": value})
    named = {
        "access_key_id": auth.access_key_id,
        "secret_access_key": auth.secret_access_key,
        "session_token": auth.session_token,
        "endpoint_url": auth.endpoint,
        "region": auth.region,
    }
    return _credential("s3", pattern, {name: value for name, value in named.items() if value})


def _headers(pattern: str, name: str, value: str) -> Credential:
    return _credential("http", pattern, {name: value})


def _credential(kind: str, pattern: str, values: Mapping[str, str]) -> Credential:
    return Credential(kind=kind, pattern=pattern, values=values, salad_pattern=True)
