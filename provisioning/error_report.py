"""Tells the autoscaler that this host could not start: one POST to every address in ``REPORT_ADDR``.

Standard library only and readable by Python 3.7: ``start_server.sh`` and the 3.10 launcher call it before any
environment exists. Body (``vast-serverless.md`` 8.1): ``{"id", "mtoken", "version", "error_msg", "url"}``.
Command line: ``python3 provisioning/error_report.py MESSAGE``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping

TIMEOUT_S = 10
MESSAGE_LIMIT = 2000


def report_error(message: str, environ: Mapping[str, str]) -> list[str]:
    """Send ``message`` to every address; give those that accepted it. Never raises: the caller is already failing."""
    body = json.dumps(error_body(message, environ)).encode()
    return [address for address in addresses(environ) if _post(address + "/worker_status/", body)]


def error_body(message: str, environ: Mapping[str, str]) -> dict[str, object]:
    """Build the body; ``id`` is a whole number where ``CONTAINER_ID`` is one."""
    container = environ.get("CONTAINER_ID", "")
    return {
        "id": int(container) if container.isdigit() else container,
        "mtoken": environ.get("MASTER_TOKEN", ""),
        "version": environ.get("PYWORKER_VERSION") or "0",
        "error_msg": message[:MESSAGE_LIMIT],
        "url": environ.get("URL", ""),
    }


def addresses(environ: Mapping[str, str]) -> list[str]:
    """Split ``REPORT_ADDR``; empty parts and trailing slashes are dropped."""
    parts = (part.strip().rstrip("/") for part in environ.get("REPORT_ADDR", "").split(","))
    return [part for part in parts if part.startswith(("http://", "https://"))]


def _post(url: str, body: bytes) -> bool:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310  # http(s) only: addresses()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            return True
    except (OSError, ValueError) as error:
        print(f"The error could not be reported to {url}: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    report_error(" ".join(sys.argv[1:]), os.environ)
