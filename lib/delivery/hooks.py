"""Whom a job tells of itself: pure decisions from the request and the operator's settings.

The operator's secret signs for the operator's own target and for nobody else's, but where an API wants it so (Salad's
second webhook: its receivers know that secret).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from lib.delivery.blocks import INPUT, bounded, check_url, given
from lib.delivery.refusals import Loc, invalid
from lib.delivery.signatures import UnusableSecret, check_secret, standard_keys
from lib.jobs.model import OUTCOMES, JobEvent, WebhookScheme, WebhookTarget
from lib.settings import DeliverySettings, SettingsError
from lib.storage.guard import AddressGuard

MAX_TIMEOUT_S = 300.0
MAX_WEBHOOKS = 10
URL_LOC: Loc = ("body", "webhook")
OFFERED = (WebhookScheme.WRAPPER, WebhookScheme.STANDARD)
"""Schemes that a caller may choose; the others come with their API."""
_HEADER_TEXT = re.compile(r"[!-~]{1,256}")
SALAD = (WebhookScheme.SALAD, WebhookScheme.SALAD_SIGNED)
E = TypeVar("E", bound=StrEnum)


def plan_webhooks(
    block: Mapping[str, Any] | None,
    blocks: Sequence[Mapping[str, Any]] | None,
    settings: DeliverySettings,
    *,
    guard: AddressGuard | None = None,
) -> tuple[WebhookTarget, ...]:
    """Decide whom to tell for a request with one ``webhook`` block and a ``webhooks`` list; without either's URL the
    operator's default, if there is one.

    Raises: InvalidRequest, UnsafeInput.
    """
    further = blocks or ()
    if not isinstance(further, list | tuple) or len(further) >= MAX_WEBHOOKS:
        raise invalid((*INPUT, "webhooks"), f"must be a list of fewer than {MAX_WEBHOOKS} webhooks")
    own = [
        _own_webhook(one, settings, guard, (*INPUT, "webhooks", number), needed=True)
        for number, one in enumerate(further)
    ]
    first = _own_webhook(block, settings, guard, (*INPUT, "webhook"))
    found = tuple(target for target in (first, *own) if target is not None)
    if found:
        return found
    default = plan_webhook(block, settings, guard=guard)
    return () if default is None else (default,)


def plan_webhook(
    block: Mapping[str, Any] | None, settings: DeliverySettings, *, guard: AddressGuard | None = None
) -> WebhookTarget | None:
    """Decide whom to tell for a request with the ``webhook`` block ``block``; ``None``: nobody.

    Without a URL of the caller's it is ``WEBHOOK_URL``, which keeps the caller's ``extra_params``. Only that one is
    signed with the operator's secret.

    Raises: InvalidRequest, UnsafeInput.
    """
    own = _own_webhook(block, settings, guard, (*INPUT, "webhook"))
    default = default_webhook(settings) if own is None else None
    if default is None:
        return own
    return replace(default, extra_params=(block or {}).get("extra_params") or {})


def plan_url_webhook(
    url: Any,
    settings: DeliverySettings,
    *,
    guard: AddressGuard | None = None,
    loc: Loc = URL_LOC,
    scheme: WebhookScheme = WebhookScheme.RUNPOD,
    message_name: str | None = None,
) -> WebhookTarget | None:
    """Decide whom to tell for a request that gives nothing but a URL, whose API has a scheme of its own; without one it
    is the operator's default in the scheme of that, or nobody. ``message_name``: what the request calls itself, for a
    header; what can't stand in one is passed over.

    Raises: InvalidRequest, UnsafeInput.
    """
    if url is None or url == "":
        return default_webhook(settings)
    check_url(url, guard, loc=loc)
    if scheme in SALAD and settings.salad_webhook_attempts == 0:
        return None
    secret = settings.salad_webhook_secret or settings.webhook_secret if scheme is WebhookScheme.SALAD_SIGNED else None
    return WebhookTarget(
        url=url,
        scheme=scheme,
        timeout_s=settings.webhook_timeout_s,
        secret=secret.get_secret_value() if secret else None,
        message_name=message_name if message_name and _HEADER_TEXT.fullmatch(message_name) else None,
    )


def default_webhook(settings: DeliverySettings) -> WebhookTarget | None:
    """Return the operator's own target; ``lib.app`` asks once at start, so that a mistake is seen there.

    Raises: SettingsError.
    """
    if settings.webhook_url is None:
        return None
    scheme, secret = WebhookScheme(settings.webhook_scheme), settings.webhook_secret
    try:
        if scheme is WebhookScheme.STANDARD and secret is not None:
            standard_keys(secret.get_secret_value())
        events = frozenset(map(JobEvent, settings.webhook_events)) or OUTCOMES
    except UnusableSecret as error:
        raise SettingsError(f"WEBHOOK_SECRET=***: {error}; WEBHOOK_SCHEME=standard needs base64") from error
    except ValueError as error:
        raise SettingsError(f"WEBHOOK_EVENTS: {error}; expected some of {', '.join(JobEvent)}") from error
    return WebhookTarget(
        url=settings.webhook_url,
        scheme=scheme,
        events=events,
        timeout_s=settings.webhook_timeout_s,
        secret=secret.get_secret_value() if secret else None,
        operator=True,
    )


def _own_webhook(
    block: Mapping[str, Any] | None,
    settings: DeliverySettings,
    guard: AddressGuard | None,
    loc: Loc,
    *,
    needed: bool = False,
) -> WebhookTarget | None:
    """A caller's own target, with nothing of the operator's."""
    said = given(block, loc)
    if "url" not in said:
        if needed:
            raise invalid((*loc, "url"), "is needed")
        return None
    check_url(said["url"], guard, loc=(*loc, "url"))
    scheme = _named(WebhookScheme, said.get("scheme", WebhookScheme.WRAPPER), OFFERED, loc=(*loc, "scheme"))
    if scheme is WebhookScheme.STANDARD and "secret" in said:
        check_secret(str(said["secret"]), loc=[str(part) for part in (*loc, "secret")])
    return WebhookTarget(
        url=said["url"],
        scheme=scheme,
        events=_events(said.get("events"), (*loc, "events")),
        extra_params=said.get("extra_params") or {},
        timeout_s=bounded(said.get("timeout", settings.webhook_timeout_s), MAX_TIMEOUT_S, loc=(*loc, "timeout")),
        secret=said.get("secret"),
    )


def _events(said: Any, loc: Loc) -> frozenset[JobEvent]:
    if said is None or said == []:
        return OUTCOMES
    if not isinstance(said, list | tuple):
        raise invalid(loc, "must be a list")
    return frozenset(_named(JobEvent, name, tuple(JobEvent), loc=loc) for name in said)


def _named(kind: type[E], value: Any, offered: tuple[E, ...], *, loc: Loc) -> E:
    if value not in offered:
        raise invalid(loc, f"must be of {', '.join(offered)}, not {str(value)[:40]!r}")
    return kind(value)
