"""What the SDK and the CLI read of endpoints, groups and workers, and the form of errors. Pure. Nulls are left out: the
SDK can't read them."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from lib.errors import InvalidRequest, ServiceError
from lib.serving.errors import error_headers, status_of
from lib.serving.payloads import json_response
from router.dispatch import Figures
from router.endpoints import Endpoint, Place
from router.model import Condition
from router.registry import Worker
from router.reports import number, text

CONSOLE = "/api/"
USER_ID = 1
SCALING = (
    "cold_workers",
    "max_workers",
    "min_load",
    "min_cold_load",
    "target_util",
    "cold_mult",
    "max_queue_time",
    "target_queue_time",
    "inactivity_timeout",
)
"""Settings of an endpoint that Vast's API knows."""
STATUS: Mapping[type[ServiceError], int] = {InvalidRequest: 400}
"""Where the protocol differs from the services' table."""
STATES = {
    Condition.READY: "idle",
    Condition.STARTING: "loading",
    Condition.DRAINING: "stopping",
    Condition.ERROR: "error",
    Condition.STALE: "unavail",
    Condition.STOPPED: "stopped",
}
"""Vast's names, as the CLI compares them."""


def render_error(error: ServiceError, request: web.Request) -> web.Response:
    """``error`` is a text for callers of the router's paths, a code for those of the console's."""
    status = status_of(error, STATUS)
    told = error.code.value if request.path.startswith(CONSOLE) else error.message
    body = {"success": False, "error": told, "msg": error.message, "error_msg": error.message}
    return json_response(body, status=status, headers=error_headers(error, status))


def worker_object(worker: Worker) -> dict[str, Any]:
    """A worker. ``reliability`` is the share of our requests that it did."""
    record, report = worker.record, worker.record.report
    handled = worker.served + worker.failed
    reliability = worker.served / handled if handled else 1.0
    perf, loadtime = number(report, "max_perf"), number(report, "loadtime")
    return {
        "id": record.id,
        "status": STATES[worker.condition],
        "cur_load": number(report, "cur_load"),
        "new_load": number(report, "new_load"),
        "cur_load_rolling_avg": worker.load_mean,
        "cur_perf": worker.perf_now,
        "perf": perf * reliability,
        "measured_perf": perf,
        "dlperf": 0.0,
        "reliability": reliability,
        "reqs_working": int(number(report, "num_requests_working")),
        "disk_usage": number(report, "disk_usage"),
        "loaded_at": record.first_at + loadtime if loadtime else 0.0,
        "started_at": record.first_at,
        "url": record.url,
        "group": record.group,
        "gpu_name": text(report, "gpu_name"),
        "error_msg": worker.trouble,
    }


def endpoint_object(endpoint: Endpoint, *, api_key: str) -> dict[str, Any]:
    """An endpoint, with the key that opens it."""
    settings = endpoint.settings.model_dump(include=set(SCALING), exclude_none=True)
    return {
        "id": endpoint.id,
        "endpoint_name": endpoint.name,
        "api_key": api_key,
        "user_id": USER_ID,
        "created_at": endpoint.created_at,
        "endpoint_state": "active",
        **settings,
    }


def group_object(place: Place) -> dict[str, Any]:
    """A worker group."""
    endpoint, group = place.endpoint, place.group
    most = endpoint.settings.max_workers if group.max_workers is None else group.max_workers
    return {
        "id": group.id,
        "endpoint_id": endpoint.id,
        "endpoint_name": endpoint.name,
        "name": group.name,
        "gpu_name": group.gpu_name,
        "max_workers": most,
        "min_load": endpoint.settings.min_load,
        "target_util": endpoint.settings.target_util,
        "cold_mult": endpoint.settings.cold_mult,
        "search_params": "",
        "launch_args": "",
        "template_hash": "",
        "created_at": endpoint.created_at,
        "user_id": USER_ID,
    }


def waiting_text(figures: Figures) -> str:
    """Why there is no worker yet, for people."""
    counted = ", ".join(f"{STATES[condition]}: {count}" for condition, count in figures.workers.items() if count)
    wait = "not known" if figures.wait is None else f"about {figures.wait.likely_s:.0f} s"
    return f"workers: {counted or 'none'}; waiting requests: {figures.waiting_count}; expected wait: {wait}"
