"""The operator's own warm-up: where it comes from, and that a wrong one stops the start."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from benchmark.settings import BenchmarkSettings
from benchmark.warmup import load_warm_up
from lib.settings import SaladSettings, SettingsError
from tests.provisioning.servers import serve

GRAPH = {"8": {"class_type": "SaveImage", "inputs": {}}}
KEYS = SaladSettings(http_header_name="X-Key", http_header_value=SecretStr("s3cret"))


def settings(*, path: Path | None = None, url: str | None = None) -> BenchmarkSettings:
    return BenchmarkSettings(warmup_prompt_file=path, warmup_prompt_url=SecretStr(url) if url else None)


def test_without_a_name_there_is_none() -> None:
    """The measured workflow warms up then."""
    assert load_warm_up(settings(), keys=KEYS) is None


def test_it_comes_from_the_url_with_the_operators_header() -> None:
    """A bare graph, or one as it is posted."""
    with serve() as server:
        bare = server.add("/warm.json", json.dumps(GRAPH).encode())
        posted = server.add("/posted", json.dumps({"prompt": GRAPH}).encode())
        for url in (bare, posted):
            found = load_warm_up(settings(url=url), keys=KEYS)
            assert found is not None and json.loads(found.body("")) == GRAPH
        assert [request.headers["X-Key"] for request in server.requests] == ["s3cret"] * 2


def test_the_file_wins_over_the_url(tmp_path: Path) -> None:
    """The URL is not even asked."""
    path = tmp_path / "warm.json"
    path.write_text(json.dumps(GRAPH))
    found = load_warm_up(settings(path=path, url="http://127.0.0.1:9/nobody"), keys=KEYS)
    assert found is not None and found.source == str(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<html>", "WARMUP_PROMPT_URL: .*"),
        (b'{"nodes": []}', "WARMUP_PROMPT_URL: is in ComfyUI's UI format"),
        (None, "WARMUP_PROMPT_URL could not be fetched: 404"),
    ],
)
def test_a_url_that_gives_no_workflow_stops_the_start(data: bytes | None, said: str) -> None:
    """With the cause, and without the key that may be in the URL."""
    with serve() as server:
        url = server.url + "/gone?token=s3cret" if data is None else server.add("/warm?token=s3cret", data)
        with pytest.raises(SettingsError, match=said) as caught:
            load_warm_up(settings(url=url), keys=KEYS)
        assert "s3cret" not in str(caught.value)


def test_nobody_there_is_named() -> None:
    """The kind of failure is told, not the URL."""
    with pytest.raises(SettingsError, match=r"WARMUP_PROMPT_URL could not be fetched: ConnectionError"):
        load_warm_up(settings(url="http://127.0.0.1:9/warm?token=s3cret"), keys=KEYS)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_file_that_is_no_workflow_stops_the_start(tmp_path: Path, text: str | None) -> None:
    """It must exist and parse."""
    path = tmp_path / "warm.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=f"WARMUP_PROMPT_FILE={path}: "):
        load_warm_up(settings(path=path), keys=KEYS)
