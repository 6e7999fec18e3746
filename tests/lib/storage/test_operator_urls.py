"""lib.storage.operator_urls: what the operator names is read with the operator's keys, which stay with their hosts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from lib.settings import SaladSettings, SettingsError
from lib.storage.operator_urls import OperatorUrls

HEADER = {"http_header_name": "X-Secret", "http_header_value": SecretStr("s3cret")}
S3 = {
    "aws_region": "us-east-1",
    "aws_access_key_id": SecretStr("AKID"),
    "aws_secret_access_key": SecretStr("secret"),
}


class Site(ThreadingHTTPServer):
    """Answers everything; ``/away`` redirects to ``away``. ``seen``: path and header of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.seen: list[tuple[str, str | None]] = []
        self.away = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Exchange(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["X-Secret"]))
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", self.server.away)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    pair = (Site(), Site())
    threads = [threading.Thread(target=site.serve_forever, args=(0.01,)) for site in pair]
    for thread in threads:
        thread.start()
    yield pair
    for site, thread in zip(pair, threads, strict=True):
        site.shutdown()
        thread.join()
        site.server_close()


def settings(**values: object) -> SaladSettings:
    return SaladSettings(**values)  # type: ignore[arg-type]


def get(urls: OperatorUrls, url: str) -> int:
    with urls.get(url, headers={}, timeout=(5, 5)) as response:
        return int(response.status_code)


def test_the_header_goes_where_the_operator_points(sites: tuple[Site, Site]) -> None:
    """To any host that is named, as the operator wrote it; with a list of hosts to these alone."""
    site, _ = sites
    assert get(OperatorUrls(settings(**HEADER)), f"{site.url}/a") == 200
    assert get(OperatorUrls(settings(**HEADER, http_header_hosts=("example.com",))), f"{site.url}/b") == 200
    assert get(OperatorUrls(settings()), f"{site.url}/c") == 200
    assert site.seen == [("/a", "s3cret"), ("/b", None), ("/c", None)]


def test_the_header_does_not_follow_to_another_host(sites: tuple[Site, Site]) -> None:
    """A redirect is the server's word, not the operator's; to the same place it stays."""
    site, other = sites
    urls = OperatorUrls(settings(**HEADER))
    site.away = f"http://localhost:{other.server_port}/there"
    assert get(urls, f"{site.url}/away") == 200
    site.away = "/here"
    assert get(urls, f"{site.url}/away") == 200
    assert other.seen == [("/there", None)]
    assert site.seen == [("/away", "s3cret"), ("/away", "s3cret"), ("/here", "s3cret")]


def test_s3_is_read_with_a_signed_url(sites: tuple[Site, Site]) -> None:
    """At the configured endpoint, below the bucket; without keys the variables are named."""
    site, _ = sites
    urls = OperatorUrls(settings(**S3, aws_endpoint_url=site.url, **HEADER))
    assert get(urls, "s3://bucket/models/a b.bin") == 200
    ((path, header),) = site.seen
    assert path.startswith("/bucket/models/a%20b.bin?X-Amz-Algorithm=AWS4-HMAC-SHA256") and header is None
    with pytest.raises(SettingsError, match=r"s3://bucket/a: .*AWS_REGION"):
        get(OperatorUrls(settings()), "s3://bucket/a")
