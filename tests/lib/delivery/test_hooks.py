"""Who is told, and whose secret signs."""

from typing import Any

import pytest

from lib.delivery.hooks import default_webhook, plan_url_webhook, plan_webhook, plan_webhooks
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import OUTCOMES, JobEvent, WebhookScheme
from lib.settings import DeliverySettings, SettingsError
from lib.storage.guard import AddressGuard

OPERATOR = {"webhook_url": "https://hooks.op.example/x", "webhook_secret": "OPHOOK"}


def settings(**values: Any) -> DeliverySettings:
    return DeliverySettings.model_validate(values)


def loc_of(error: InvalidRequest) -> list[object]:
    return error.details["errors"][0]["loc"]  # type: ignore[index,no-any-return]


def test_a_callers_webhook_never_gets_the_operators_secret() -> None:
    """Only the default target is signed with the operator's secret; a caller's secret is for the caller's own."""
    own = plan_webhook({"url": "https://me.example/h", "secret": "", "extra_params": {"a": 1}}, settings(**OPERATOR))
    assert own is not None
    assert (own.secret, own.operator, dict(own.extra_params)) == (None, False, {"a": 1})
    signed = plan_webhook({"url": OPERATOR["webhook_url"], "secret": "mine", "timeout": 5}, settings(**OPERATOR))
    assert signed is not None
    assert (signed.secret, signed.timeout_s) == ("mine", 5.0)


@pytest.mark.parametrize("block", [None, {}, {"url": "", "extra_params": {}, "timeout": 30, "secret": ""}])
def test_the_default_webhook(block: dict[str, Any] | None) -> None:
    """Without a URL it is WEBHOOK_URL with WEBHOOK_SECRET, or none."""
    assert plan_webhook(block, settings()) is None
    target = plan_webhook(block, settings(**OPERATOR))
    assert target is not None
    assert (target.url, target.secret, target.operator) == (OPERATOR["webhook_url"], "OPHOOK", True)


@pytest.mark.parametrize(
    "url",
    ["nowhere", "ftp://h/x", "http://", "http://[", "//h/x", pytest.param("https://h/" + "x" * 70_000, id="long")],
)
def test_a_bad_webhook_url_is_refused(url: str) -> None:
    """A URL that can't be posted to is the caller's mistake, not a reason to tell somebody else."""
    with pytest.raises(InvalidRequest) as caught:
        plan_webhook({"url": url}, settings(**OPERATOR))
    assert caught.value.details["errors"][0]["loc"] == ["body", "input", "webhook", "url"]  # type: ignore[index]


def test_our_own_session_end_may_be_told() -> None:
    """Vast's session pattern posts to our own loopback listener; its neighbours stay closed."""
    guard = AddressGuard(own_urls=["http://localhost:3001/session/end", "http://127.0.0.1:3001/session/end"])
    assert plan_webhook({"url": "http://127.0.0.1:3001/session/end"}, settings(), guard=guard)
    with pytest.raises(UnsafeInput):
        plan_webhook({"url": "http://127.0.0.1:3001/session/create"}, settings(), guard=guard)


def test_schemes_and_events() -> None:
    """A caller chooses both; without a word it is the wrapper's scheme and every outcome."""
    plain = plan_webhook({"url": "https://me.example/h"}, settings())
    assert plain is not None
    assert (plain.scheme, plain.events) == (WebhookScheme.WRAPPER, OUTCOMES)
    chosen = plan_webhook(
        {
            "url": "https://me.example/h",
            "scheme": "standard",
            "events": ["started", "failed"],
            "secret": "whsec_c2VjcmV0",
        },
        settings(),
    )
    assert chosen is not None
    assert (chosen.scheme, chosen.events) == (WebhookScheme.STANDARD, {JobEvent.STARTED, JobEvent.FAILED})
    for wrong, name in (
        ({"scheme": "mine"}, "scheme"),
        ({"scheme": "runpod"}, "scheme"),
        ({"events": ["done"]}, "events"),
        ({"events": "failed"}, "events"),
        ({"scheme": "standard", "secret": "no base64!"}, "secret"),
        ({"timeout": "soon"}, "timeout"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            plan_webhook({"url": "https://me.example/h", **wrong}, settings())
        assert loc_of(caught.value) == ["body", "input", "webhook", name]


def test_the_default_webhooks_own_scheme_and_events() -> None:
    """They are the operator's, whatever the caller writes beside."""
    own = settings(**OPERATOR, webhook_scheme="standard", webhook_events=("failed",))
    target = plan_webhook({"extra_params": {"a": 1}}, own)
    assert target is not None
    assert (target.scheme, target.events, dict(target.extra_params)) == (
        WebhookScheme.STANDARD,
        {JobEvent.FAILED},
        {"a": 1},
    )


def test_several_webhooks() -> None:
    """The single one comes first; the operator's default only where the caller names none."""
    one, two = {"url": "https://me.example/1"}, {"url": "https://me.example/2", "secret": "x"}
    assert [target.url for target in plan_webhooks(one, [two], settings(**OPERATOR))] == [one["url"], two["url"]]
    assert [target.url for target in plan_webhooks(None, [two], settings(**OPERATOR))] == [two["url"]]
    assert [target.operator for target in plan_webhooks(None, None, settings(**OPERATOR))] == [True]
    assert plan_webhooks(None, [], settings()) == ()
    assert all(target.secret != "OPHOOK" for target in plan_webhooks(one, [two], settings(**OPERATOR)))


@pytest.mark.parametrize(
    ("blocks", "place"),
    [
        ([{"url": ""}], ["webhooks", 0, "url"]),
        ([{"url": "https://me.example"}, {"url": "x"}], ["webhooks", 1, "url"]),
        ([3], ["webhooks", 0]),
        ([{"url": "https://me.example"}] * 10, ["webhooks"]),
        ({"url": "https://me.example"}, ["webhooks"]),
    ],
)
def test_lists_of_webhooks_that_make_no_sense(blocks: Any, place: list[object]) -> None:
    """422 with the number of the one that is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        plan_webhooks(None, blocks, settings())
    assert loc_of(caught.value) == ["body", "input", *place]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"webhook_events": ("done",)}, "WEBHOOK_EVENTS"),
        ({"webhook_scheme": "standard", "webhook_secret": "no base64!"}, "WEBHOOK_SECRET"),
    ],
)
def test_an_operators_mistake_is_seen_at_start(values: dict[str, Any], name: str) -> None:
    """The variable is named, a secret is not shown."""
    with pytest.raises(SettingsError, match=name) as caught:
        default_webhook(settings(**OPERATOR | values))
    assert "no base64!" not in str(caught.value)
    assert default_webhook(settings(**OPERATOR)) == plan_webhook(None, settings(**OPERATOR))
    assert default_webhook(settings()) is None


def test_a_url_alone() -> None:
    """It is told in the way of its API, with nothing of the operator's; the operator's default in its own way."""
    target = plan_url_webhook("https://me.example/h?t=hush", settings(**OPERATOR))
    assert target is not None
    assert (target.scheme, target.secret, target.operator, target.events) == (
        WebhookScheme.RUNPOD,
        None,
        False,
        OUTCOMES,
    )
    assert "hush" not in repr(target)
    for nothing in (None, ""):
        assert plan_url_webhook(nothing, settings()) is None
        assert plan_url_webhook(nothing, settings(**OPERATOR)) == default_webhook(settings(**OPERATOR))


@pytest.mark.parametrize("url", [7, {}, ["https://me.example"], "me.example/h", "file:///etc/passwd"])
def test_a_url_that_is_none(url: Any) -> None:
    """422 at the place where the API has it."""
    with pytest.raises(InvalidRequest) as caught:
        plan_url_webhook(url, settings(**OPERATOR), loc=("body", "webhookV2"))
    assert loc_of(caught.value) == ["body", "webhookV2"]


def test_a_url_that_leads_inwards() -> None:
    """Refused before any GPU time is spent."""
    with pytest.raises(UnsafeInput, match=r"^webhook: "):
        plan_url_webhook("http://169.254.169.254/", settings(), guard=AddressGuard())


def test_salads_webhooks() -> None:
    """The second one is signed with the operator's secret, its own before the general one, and named as the request;
    the first one is not. Without attempts nobody is told."""
    url, signed = "https://me.example/h", WebhookScheme.SALAD_SIGNED
    general, own = settings(**OPERATOR), settings(**OPERATOR, salad_webhook_secret="SALAD")
    target = plan_url_webhook(url, own, scheme=signed, message_name="order-7")
    assert target is not None
    assert (target.secret, target.message_name, target.operator) == ("SALAD", "order-7", False)
    for asked, secret in ((general, "OPHOOK"), (settings(), None)):
        target = plan_url_webhook(url, asked, scheme=signed)
        assert target is not None
        assert target.secret == secret
    plain = plan_url_webhook(url, own, scheme=WebhookScheme.SALAD)
    assert plain is not None
    assert plain.secret is None
    assert plan_url_webhook(url, settings(PROMPT_WEBHOOK_RETRIES=0), scheme=signed) is None


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "\u00e4", "a b", "", "x" * 257])
def test_a_name_that_no_header_takes(name: str) -> None:
    """The message has a name of ours then."""
    scheme = WebhookScheme.SALAD_SIGNED
    target = plan_url_webhook("https://me.example/h", settings(), scheme=scheme, message_name=name)
    assert target is not None
    assert target.message_name is None
