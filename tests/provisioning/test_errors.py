"""What is told of a failure goes to the public health page: no secrets of URLs."""

import pytest

from provisioning.errors import ProvisioningError, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://civitai.com/api/1?type=Model&token=abc answered 401.", "https://civitai.com/api/1?... answered 401."),
        ("https://me:abc@host/m.bin is gone", "https://host/m.bin is gone"),
        (
            "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /m?token=abc (Caused by X('no'))",
            "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /m?... (Caused by X('no'))",
        ),
        ("Why? The file https://host/a.bin has 3 bytes.", "Why? The file https://host/a.bin has 3 bytes."),
    ],
)
def test_urls_keep_no_secret(text: str, shown: str) -> None:
    """Queries and user names go, the rest stays readable."""
    assert without_secrets(text) == shown
    assert str(ProvisioningError(text, remedy="Start again.")) == f"{shown} Start again."
