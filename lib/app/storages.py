"""Where files come from and go to beside our disk: S3, Azure, Hugging Face, web servers, each by the operator's
accounts or the caller's own rights."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from lib.delivery.places import Accounts
from lib.delivery.plan import missing_for_s3
from lib.delivery.storages import missing_packages
from lib.jobs.model import StoreKind
from lib.settings import Settings
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.hugging_face import HubAccount, HubStores
from lib.storage.operator_header import OperatorHeader
from lib.storage.operator_keys import OperatorKeys
from lib.storage.proxies import Proxies
from lib.storage.reading import Reader
from lib.storage.s3 import S3Stores
from lib.storage.sources import Sources

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storages:
    """``missing`` says of storages that are configured, but whose package is not installed, what to install."""

    http: GuardedHttp
    s3: S3Stores
    accounts: Accounts
    sources: Sources
    reader: Reader
    missing: Mapping[StoreKind, str]


async def open_storages(settings: Settings, stack: AsyncExitStack, *, guard: AddressGuard) -> Storages:
    """Enter every client on ``stack``; nothing is connected yet. Raises: SettingsError (an account can't be one)."""
    salad = settings.salad
    proxies = Proxies.from_settings(settings.storage)
    http = await stack.enter_async_context(GuardedHttp(guard, proxies=proxies))
    account, hub_account = AzureAccount.from_settings(salad), HubAccount.from_settings(salad)
    azure = None
    if account is not None:
        azure = await stack.enter_async_context(AzureStores(account, proxies=proxies))
    hub = await stack.enter_async_context(HubStores(hub_account))
    header = OperatorHeader.from_settings(salad)
    if header.unused is not None:
        log.warning("%s", header.unused, extra={"event": "storage.header"})
    missing = await asyncio.to_thread(missing_packages, salad)
    for text in missing.values():
        log.warning("%s", text, extra={"event": "storage.missing"})
    if names := " and ".join(missing_for_s3(settings.delivery)):
        log.warning("%s not set: nothing is uploaded to your own bucket", names, extra={"event": "storage.keys"})
    keys = OperatorKeys(
        settings=salad, header=header, hub=hub_account, azure=azure, buckets=settings.delivery.s3_allow_buckets
    )
    return Storages(
        http=http,
        s3=await stack.enter_async_context(S3Stores(guard=guard, proxies=proxies)),
        accounts=Accounts(http=http, header=header, azure=azure, hub=hub),
        sources=Sources(settings=settings.delivery, guard=guard, keys=keys),
        reader=Reader(http, redirects=settings.storage.input_redirects),
        missing=missing,
    )
