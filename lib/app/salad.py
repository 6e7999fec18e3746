"""The job format of the Salad dialect, with deliveries planned as its accounts say."""

from collections.abc import Mapping
from functools import partial

from lib.delivery.hooks import plan_url_webhook
from lib.delivery.plan import plan_convert
from lib.delivery.storages import plan_salad_s3, plan_store
from lib.dialects.salad.translate import SaladPayload, SaladPlanner
from lib.jobs.model import StoreKind, WebhookScheme, WebhookTarget
from lib.settings import Settings
from lib.storage.guard import AddressGuard


def salad_payload(settings: Settings, *, guard: AddressGuard, missing: Mapping[StoreKind, str]) -> SaladPayload:
    """Return comfyui-api's job format. ``missing``: what to install for storages that lack their package."""
    delivery, salad = settings.delivery, settings.salad

    def webhook(url: str, *, field: str, scheme: WebhookScheme, message_name: str | None) -> WebhookTarget | None:
        return plan_url_webhook(
            url, delivery, guard=guard, loc=("body", field), scheme=scheme, message_name=message_name
        )

    planner = SaladPlanner(
        s3=lambda block: plan_salad_s3(block, salad, delivery),
        store=lambda kind, block: plan_store(kind, block, salad, guard=guard, missing=missing),
        convert=partial(plan_convert, loc=("body", "convert_output")),
        webhook=webhook,
    )
    return SaladPayload(planner=planner, settings=salad, jobs=settings.jobs)
