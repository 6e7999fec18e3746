"""Where ``python -m benchmark boot`` runs its jobs: a ComfyUI, or our service's API listener."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from benchmark.raw import RawComfy, RawRun
from lib.errors import EngineUnreachable, ExecutionFailed, InvalidWorkflow
from lib.workflow.placeholders import fill_placeholders


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRun:
    """One job as its caller saw it, in seconds."""

    total_s: float
    execute_s: float
