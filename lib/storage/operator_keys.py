"""The operator's own keys, for inputs and models of Salad's jobs: ``AWS_*``, Azure, Hugging Face, a header.

They are used where a request brings no credential of its own, for URLs of those accounts only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from yarl import URL

from lib.settings import SaladSettings
from lib.storage.azure import AzureBlob, AzureStores
from lib.storage.hugging_face import HubAccount
from lib.storage.operator_header import OperatorHeader
from lib.storage.s3 import S3Place
from lib.storage.s3_read import AmbientKeys

SALAD = "salad"
"""The dialect whose jobs may use them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKeys:
    """``AWS_*``; empty where this machine's own keys are meant (a role, a file)."""

    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str | None = field(default=None, repr=False)


def aws_keys(settings: SaladSettings) -> AwsKeys | None:
    """The keys, if ``AWS_REGION`` turns them on; half of them are none."""
    key, secret, token = settings.aws_access_key_id, settings.aws_secret_access_key, settings.aws_session_token
    if settings.aws_region is None or (key is None) is not (secret is None):
        return None
    if key is None or secret is None:
        return AwsKeys()
    return AwsKeys(
        key_id=key.get_secret_value(),
        secret=secret.get_secret_value(),
        token=token.get_secret_value() if token else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKeys:
    """``buckets``: only these are read, where there are any."""

    settings: SaladSettings
    header: OperatorHeader
    hub: HubAccount
    azure: AzureStores | None = None
    buckets: Sequence[str] = ()
    ambient: AmbientKeys = field(default_factory=AmbientKeys)

    def s3_place(self, bucket: str) -> S3Place | None:
        """The place of a bucket, if it may be read."""
        settings, keys = self.settings, aws_keys(self.settings)
        if keys is None or (self.buckets and bucket not in self.buckets):
            return None
        return S3Place(
            bucket_name=bucket,
            access_key_id=keys.key_id,
            secret_access_key=keys.secret,
            session_token=keys.token,
            ambient=None if keys.key_id else self.ambient,
            endpoint_url=settings.aws_endpoint_url,
            region=settings.aws_region,
            trusted=True,
        )

    def blob(self, url: URL) -> AzureBlob | None:
        """The blob of the operator's Azure account that a URL names."""
        return self.azure.blob(url) if self.azure is not None else None

    def headers(self, url: URL) -> dict[str, str]:
        """What a web server is asked with."""
        return self.hub.headers(url) or self.header.for_(url)
