"""The result file ``<workspace>/benchmark.json``: what was measured, and for exactly which machine and software.

A score is only taken from here when everything that it depends on is the same.
"""

import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from benchmark.facts import HostFacts
from benchmark.result import BenchResult

log = logging.getLogger(__name__)
FILE_NAME = "benchmark.json"
_RESULT: TypeAdapter[BenchResult] = TypeAdapter(BenchResult)


def cache_key(facts: HostFacts, *, digest: str, engines: int) -> dict[str, object]:
    """Everything that a score depends on; the CPU only where it does the work."""
    return {
        "gpus": [f"{gpu.uuid} {gpu.name}" for gpu in facts.gpus],
        "driver": facts.driver,
        "cpu": f"{facts.cpu_count} x {facts.cpu}" if facts.cpu_only else None,
        "device": facts.device,
        "torch": facts.torch,
        "comfyui": facts.comfyui,
        "workflow": digest,
        "engines": engines,
    }


def read_cached(workspace: Path, key: dict[str, object]) -> BenchResult | None:
    """Give the stored result when it was measured for ``key`` and is sound; else None."""
    try:
        result = _RESULT.validate_json((workspace / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("benchmark result unreadable", extra={"event": "benchmark.cache_unreadable", "reason": str(error)})
        return None
    return result if result.key == key and result.trustworthy else None


def write_result(workspace: Path, result: BenchResult) -> None:
    """Replace the file as a whole."""
    workspace.mkdir(parents=True, exist_ok=True)
    draft = workspace / f".{FILE_NAME}.{os.getpid()}"
    draft.write_bytes(_RESULT.dump_json(result, indent=2) + b"\n")
    draft.replace(workspace / FILE_NAME)
