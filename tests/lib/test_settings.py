"""lib.settings: a value that can't be used stops the start, and names itself."""

import pytest

from lib.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORKER_PORT", "abc", "integer"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("COMFYUI_API_BASE", "ftp://host", "base URL"),
        ("COMFYUI_BACKENDS", "http://a:1,ftp://b", "base URL"),
        ("PRIMARY_DIALECT", "esperanto", "native"),
        ("S3_ENDPOINT_URL", "s3://bucket", "base URL"),
        ("REPORT_ADDR", "https://a,file:///b", "base URL"),
        ("WEBHOOK_URL", "example.com/hook", "URL of a webhook"),
        ("WEBHOOK_URL", "https:///hook", "URL of a webhook"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(name: str, value: str, expected: str) -> None:
    """Variable, value, expectation; nothing starts with half of a configuration."""
    with pytest.raises(SettingsError, match=rf"{name}=.*{expected}"):
        load_settings({name: value})


def test_a_secret_value_is_not_shown() -> None:
    """Not even when it is the one that is wrong."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"S3_URL_EXPIRES_S": "1", "CONTAINER_ID": "x", "MASTER_TOKEN": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_webhooks_url_is_not_shown() -> None:
    """It may have a token in it."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"WEBHOOK_URL": "hooks.example.com/s3cret?token=s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_base_url_may_lack_its_scheme() -> None:
    """``host:port``, as people write it, is http; trailing slashes go."""
    settings = load_settings({"COMFYUI_API_BASE": "localhost:8188/"})
    assert settings.engine.attached_bases == ("http://localhost:8188",)
    settings = load_settings({"COMFYUI_BACKENDS": "a:1/, https://b"})
    assert settings.engine.attached_bases == ("http://a:1", "https://b")
