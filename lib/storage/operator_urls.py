"""URLs that the operator writes (a manifest's, the warm-up prompt's), read with all of the operator's own keys.

Blocks: it is for what happens before the worker's loop runs, and beside it in other processes. Nothing is guarded: the
operator may name private addresses. What callers name is read by ``lib.storage.downloads``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import requests
from yarl import URL

from lib.settings import SaladSettings, SettingsError
from lib.storage.azure import AzureAccount, AzureStores
from lib.storage.hugging_face import HubAccount
from lib.storage.operator_header import EVERYWHERE, OperatorHeader
from lib.storage.operator_keys import OperatorKeys
from lib.storage.s3_read import signed_url

S3 = "s3"


class OperatorUrls:
    """Knows the keys: ``AWS_*`` for ``s3://``, the Azure account, Hugging Face's token, and ``HTTP_AUTH_HEADER_*``
    for all other hosts, or those on ``HTTP_AUTH_HEADER_HOSTS`` where any are."""

    def __init__(self, settings: SaladSettings) -> None:
        header = OperatorHeader.from_settings(settings)
        account = AzureAccount.from_settings(settings)
        self._keys = OperatorKeys(
            settings=settings,
            header=OperatorHeader(name=header.name, value=header.value, hosts=header.hosts or (EVERYWHERE,)),
            hub=HubAccount.from_settings(settings),
            azure=AzureStores(account) if account is not None else None,
        )

    @contextmanager
    def get(self, url: str, *, headers: Mapping[str, str], timeout: tuple[float, float]) -> Iterator[requests.Response]:
        """Ask for ``url``, as a stream; keys stay with the host that they are for, also where it redirects.

        Raises: SettingsError (there are no keys for it), StorageFailed (a package is missing), and requests' own."""
        asked, keys = self._request(url)
        with (
            _Session(keys) as session,
            session.get(asked, headers={**headers, **keys}, stream=True, timeout=timeout) as response,
        ):
            yield response

    def _request(self, url: str) -> tuple[str, dict[str, str]]:
        """URL and headers, secret both."""
        parsed = URL(url)
        if parsed.scheme == S3:
            place = self._keys.s3_place(parsed.raw_host or "")
            if place is None:
                raise SettingsError(
                    f"{url}: to read from S3 set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                )
            return signed_url(place, url.removeprefix(f"{S3}://").partition("/")[2]), {}
        blob = self._keys.blob(parsed)
        return blob.request() if blob is not None else (url, self._keys.headers(parsed))


class _Session(requests.Session):
    """Leaves our keys behind when it is redirected to another host, as requests does with its own alone."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__()
        self._own = tuple(keys)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        asked, next_ = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(asked, next_):  # type: ignore[no-untyped-call]
            for name in self._own:
                prepared_request.headers.pop(name, None)
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
