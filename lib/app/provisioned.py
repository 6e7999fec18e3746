"""What provisioning left for the worker to know."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPORT = "provisioning-report.json"


def failure(workspace: Path) -> str | None:
    """Why the host is not what its manifest says; ``None`` when it is, or nothing was provisioned. Blocks."""
    path = workspace / REPORT
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"the provisioning report {path} can't be read: {error}"
    if report.get("status") != "failed":
        return None
    causes = [
        f"{step.get('name')}: {step.get('error')}"
        for step in report.get("steps", [])
        if step.get("status") == "failed" and not step.get("optional")
    ]
    return "provisioning failed: " + ("; ".join(causes) or "no step says why")


def volume(workspace: Path) -> Mapping[str, Any] | None:
    """What was found on the network volume (``provisioning.volume.survey``); ``None`` without one. Blocks."""
    try:
        found = json.loads((workspace / REPORT).read_bytes()).get("volume")
    except (OSError, ValueError, AttributeError):  # ``failure`` tells
        return None
    return found if isinstance(found, dict) else None
