"""The operator's own warm-up, ``WARMUP_PROMPT_FILE`` or ``WARMUP_PROMPT_URL``: read before ComfyUI starts.

One that can't be read stops the start, as a wrong setting does: whoever names a warm-up wants no worker without it.
"""

import json

import requests

from benchmark.settings import BenchmarkSettings
from benchmark.workload import UnusableWorkflow, Workload, load, parse
from lib.errors import StorageFailed
from lib.settings import SaladSettings, SettingsError
from lib.storage.operator_urls import OperatorUrls

LIMIT_BYTES = 100 << 20
TIMEOUT_S = (15.0, 60.0)
CHUNK_BYTES = 1 << 16


def load_warm_up(settings: BenchmarkSettings, *, keys: SaladSettings) -> Workload | None:
    """Give the workflow, ``None`` where none is named; the file wins. Blocks. Raises: SettingsError."""
    path, url = settings.warmup_prompt_file, settings.warmup_prompt_url
    if path is not None:
        try:
            return load(path)
        except (OSError, UnusableWorkflow) as error:
            raise SettingsError(f"WARMUP_PROMPT_FILE={path}: {error}") from error
    if url is None:
        return None
    try:
        return parse(json.loads(_fetched(url.get_secret_value(), OperatorUrls(keys))), source="WARMUP_PROMPT_URL")
    except requests.RequestException as error:
        raise SettingsError(f"WARMUP_PROMPT_URL could not be fetched: {_reason(error)}") from error
    except (StorageFailed, UnusableWorkflow, ValueError) as error:
        raise SettingsError(f"WARMUP_PROMPT_URL: {error}") from error


def _fetched(url: str, urls: OperatorUrls) -> bytes:
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
