"""From what a job asked for to the storage that its files go to: with which account, and how it is spoken to."""

from collections.abc import Callable
from dataclasses import dataclass

from yarl import URL

from lib.errors import StorageFailed
from lib.jobs.model import S3Target, StoreKind, StoreTarget
from lib.settings import DeliverySettings
from lib.storage.azure import AzureStores
from lib.storage.blobs import BlobStore, Repository
from lib.storage.http import GuardedHttp
from lib.storage.hugging_face import HubRepo, HubStores, RepoType
from lib.storage.operator_header import OperatorHeader
from lib.storage.s3 import S3Place, S3Stores
from lib.storage.web_store import WebFolder

PUT_TIMEOUT_S = 3600.0
"""One file's PUT; a server that stops reading is given up much earlier."""
NOT_SENT = "the worker's own header was not sent, as this host is not on its HTTP_AUTH_HEADER_HOSTS"

Target = S3Target | StoreTarget
OpenStore = Callable[[Target], BlobStore | Repository]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The operator's accounts at storages other than S3; ``None``: there is none."""

    http: GuardedHttp
    header: OperatorHeader
    azure: AzureStores | None = None
    hub: HubStores | None = None

    def open(self, target: StoreTarget) -> BlobStore | Repository:
        """Raises: StorageFailed, the account of a job from an earlier life is no more."""
        place = target.place
        if target.kind is StoreKind.HTTP:
            prefix = place["url_prefix"]
            headers = self.header.for_(URL(prefix))
            hint = NOT_SENT if self.header.name and not headers else ""
            return WebFolder(http=self.http, url_prefix=prefix, headers=headers, timeout_s=PUT_TIMEOUT_S, hint=hint)
        if target.kind is StoreKind.AZURE and self.azure is not None:
            return self.azure.at(place["container"])
        if target.kind is StoreKind.HUGGING_FACE and self.hub is not None:
            kind: RepoType = "dataset" if place.get("repo_type") == "dataset" else "model"
            return self.hub.at(HubRepo(name=place["repo"], kind=kind, revision=place["revision"]))
        raise _not_configured(target)


def opener(stores: S3Stores, settings: DeliverySettings, accounts: Accounts | None = None) -> OpenStore:
    """Turn targets of every kind into stores; those other than S3 need ``accounts``."""

    def open_(target: Target) -> BlobStore | Repository:
        if isinstance(target, S3Target):
            return stores.at(_s3_place(target, settings))
        if accounts is None:
            raise _not_configured(target)
        return accounts.open(target)

    return open_


def _s3_place(target: S3Target, settings: DeliverySettings) -> S3Place:
    """Addressing and checksum mode of ``S3_*`` are for the operator's place there, and its public URL is that of its
    own bucket; a plain target is another place of the operator's (``AWS_*``)."""
    theirs = not target.operator or target.plain
    own = target.bucket_name == settings.s3_bucket_name
    return S3Place(
        bucket_name=target.bucket_name,
        access_key_id=target.access_key_id,
        secret_access_key=target.secret_access_key,
        session_token=target.session_token,
        endpoint_url=target.endpoint_url,
        region=target.region,
        addressing="auto" if theirs else settings.s3_addressing,
        checksums="when_required" if theirs else settings.s3_checksums,
        connect_timeout_s=target.connect_timeout_s,
        read_timeout_s=settings.s3_read_timeout_s,
        attempts=target.connect_attempts,
        trusted=target.operator,
        public_base_url=settings.s3_public_base_url if own and not theirs else None,
        plain=target.plain,
    )


def _not_configured(target: StoreTarget) -> StorageFailed:
    name = "Azure" if target.kind is StoreKind.AZURE else "Hugging Face"
    text = f"{name} upload failed: NotConfigured: the worker has no such account any more"
    return StorageFailed(text, details={"reason": "NotConfigured"})
