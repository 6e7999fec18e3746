"""azure-storage-blob, as we use it. Blocking, for threads only; importing it costs half a second, so ``azure.py`` does
it late."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContentSettings,
    ExponentialRetry,
    generate_blob_sas,
)

from lib.errors import StorageFailed
from lib.storage.azure import AzureAccount

READ_S = 3600
"""Life of what a blob is read with; the clock of this machine may be a little off."""
SKEW_S = 300
CONNECT_S = 15
READ_TIMEOUT_S = 60
RETRIES = 2
SCOPE = "https://storage.azure.com/.default"
SMALL_BYTES = 8 << 20
BLOCK_BYTES = 4 << 20
PARALLEL_BLOCKS = 4
VERSION = "2021-08-06"
"""Of the service's protocol, which requests with a token have to name."""


class AzureClient:
    """One account's client; thread-safe."""

    def __init__(self, account: AzureAccount, *, proxy: str | None = None) -> None:
        self._account = account
        self._token: TokenCredential | None = None
        if account.key is None and account.sas_token is None:
            from azure.identity import DefaultAzureCredential

            self._token = DefaultAzureCredential()
        try:
            self._service = BlobServiceClient(
                account.endpoint,
                credential=self._credential(),
                proxies={"http": proxy or "", "https": proxy or ""},  # empty: not the environment's, either
                retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=RETRIES),
                connection_timeout=CONNECT_S,
                read_timeout=READ_TIMEOUT_S,
                max_single_put_size=SMALL_BYTES,
                max_block_size=BLOCK_BYTES,
            )
        except (AzureError, ValueError) as error:
            raise _failed("InvalidAccount", "the account's settings can't be used") from error

    def upload(self, container: str, path: Path, *, key: str, mime_type: str) -> None:
        """Stream a file up as a block blob: one PUT, or blocks in parallel for a large one. Raises: StorageFailed."""
        try:
            blob = self._service.get_blob_client(container, key)
            with path.open("rb") as file:
                blob.upload_blob(
                    file,
                    length=path.stat().st_size,
                    overwrite=True,
                    content_settings=ContentSettings(content_type=mime_type),
                    max_concurrency=PARALLEL_BLOCKS,
                )
        except (AzureError, OSError, ValueError) as error:
            raise _explained(error) from error

    def readable(self, container: str, key: str) -> tuple[str, dict[str, str]]:
        """URL and headers that a blob may be read with for a while. Raises: StorageFailed."""
        url, account = self._account.url(container, key), self._account
        if account.key is not None:
            return f"{url}?{self._signature(container, key, account.key)}", {}
        if account.sas_token is not None:
            return f"{url}?{account.sas_token}", {}
        return url, {"x-ms-version": VERSION, "Authorization": f"Bearer {self._bearer()}"}

    def _signature(self, container: str, key: str, account_key: str) -> str:
        now = datetime.now(UTC)
        try:
            return generate_blob_sas(
                self._account.name,
                container,
                key,
                account_key=account_key,
                permission=BlobSasPermissions(read=True),
                start=now - timedelta(seconds=SKEW_S),
                expiry=now + timedelta(seconds=READ_S),
            )
        except (AzureError, ValueError) as error:  # a key that is no base64
            raise _failed("InvalidKey", "the account's key can't be used") from error

    def _bearer(self) -> str:
        if self._token is None:
            raise _failed("NoCredential", "the account has no credential")
        try:
            return self._token.get_token(SCOPE).token
        except AzureError as error:
            raise _explained(error) from error

    def _credential(self) -> AzureNamedKeyCredential | AzureSasCredential | TokenCredential | None:
        account = self._account
        if account.key is not None:
            return AzureNamedKeyCredential(account.name, account.key)
        return AzureSasCredential(account.sas_token) if account.sas_token is not None else self._token


def _explained(error: Exception) -> StorageFailed:
    """Azure's own code, or ours for what never reached it; its texts quote URLs and signatures."""
    if isinstance(error, HttpResponseError) and error.status_code:
        code = getattr(error, "error_code", None) or f"Status{error.status_code}"
        passing = error.status_code >= 500 or error.status_code in (408, 425, 429)
        return _failed(str(getattr(code, "value", code)), f"status {error.status_code}", passing=passing)
    for kind, reason, text, passing in _CAUSES:
        if isinstance(error, kind):
            return _failed(reason, text(error), passing=passing)
    return _failed(type(error).__name__, "the request could not be made")


_CAUSES: tuple[tuple[type[Exception], str, Callable[[Exception], str], bool], ...] = (
    (
        ClientAuthenticationError,
        "AuthenticationFailed",
        lambda error: "no credential of this machine is accepted",
        False,
    ),
    (ServiceResponseError, "NoAnswer", lambda error: "no answer in time, or it broke off", True),
    (ServiceRequestError, "ConnectionFailed", lambda error: "no connection", True),
    (OSError, "LocalFile", lambda error: f"the file can't be read: {getattr(error, 'strerror', None)}", False),
)


def _failed(reason: str, text: str, *, passing: bool = False) -> StorageFailed:
    failed = StorageFailed(f"Azure upload failed: {reason}: {text}", details={"reason": reason})
    failed.retryable = passing
    return failed
