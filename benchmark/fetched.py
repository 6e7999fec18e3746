"""A file that the operator names by URL, read whole into memory. Blocks."""

import requests

from lib.errors import StorageFailed
from lib.settings import SaladSettings, SettingsError
from lib.storage.operator_urls import OperatorUrls

LIMIT_BYTES = 100 << 20
TIMEOUT_S = (15.0, 60.0)
CHUNK_BYTES = 1 << 16


def fetch(url: str, *, variable: str, keys: SaladSettings) -> bytes:
    """Give what is there; ``variable`` names the URL. Raises: SettingsError."""
    try:
        return _read(url, OperatorUrls(keys))
    except requests.RequestException as error:
        raise SettingsError(f"{variable} could not be fetched: {_reason(error)}") from error
    except (StorageFailed, ValueError) as error:
        raise SettingsError(f"{variable}: {error}") from error


def _read(url: str, urls: OperatorUrls) -> bytes:
    with urls.get(url, headers={"User-Agent": "comfyui-pyworker"}, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        content = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):
            content += chunk
            if len(content) > LIMIT_BYTES:
                raise ValueError(f"over {LIMIT_BYTES >> 20} MiB")
        return bytes(content)


def _reason(error: requests.RequestException) -> str:
    """Without the URL, which may have a key in it."""
    response = error.response
    return type(error).__name__ if response is None else f"{response.status_code} {response.reason}"
