"""Reading what workers say of themselves: reports of Vast's PyWorker of any age, and what our own workers add. Pure.

Additive keys of ours, each optional: ``slots`` (requests it takes at once, running and prepared), ``engines``,
``draining``, ``backlog_s``, ``models`` (installed), ``models_warm`` (resident, least recently used first), ``room``
(how many stay resident), ``swap_s`` (load time by model), ``dialects``, ``vram_gib``, ``gpu_name``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lib.protocol.auth import SignatureForm
from lib.protocol.urls import normalise_url
from router.endpoint_settings import EndpointSettings, GroupSettings
from router.model import Condition, WorkerView

MOST_SLOTS = 1024
URLS_KEPT = 10_000
WRAPPER, WRAPPER_SYNC = "wrapper", "wrapper/sync"
"""Dialects by what a request needs of a worker. The latter is all that a stock PyWorker does of the wrapper's."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")


def number(report: Mapping[str, Any], name: str, otherwise: float = 0.0) -> float:
    """A figure that is no nonsense: finite, not negative."""
    value = report.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return otherwise
    return max(float(value), 0.0)


def text(report: Mapping[str, Any], name: str) -> str:
    """A string, "" for anything else."""
    value = report.get(name)
    return value if isinstance(value, str) else ""


def names(report: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """A list of strings; None where there is none."""
    value = report.get(name)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else None


def working(report: Mapping[str, Any]) -> frozenset[str]:
    """The requests that the worker has, by their ``request_idx`` as text."""
    value = report.get("working_request_idxs")
    return (
        frozenset(str(one) for one in value if isinstance(one, int)) if isinstance(value, list | tuple) else frozenset()
    )


def version_of(report: Mapping[str, Any]) -> tuple[int, int] | None:
    """The protocol's version; None for workers that are older than versions."""
    found = _VERSION.match(text(report, "version"))
    return (int(found[1]), int(found[2])) if found else None


def form_of(report: Mapping[str, Any]) -> SignatureForm:
    """The signature that a worker of this version expects."""
    version = version_of(report)
    if version is not None:
        return SignatureForm.D if version >= (1, 1) else SignatureForm.C
    if text(report, "version"):
        return SignatureForm.D
    return SignatureForm.B if "working_request_idxs" in report else SignatureForm.A


def is_ours(report: Mapping[str, Any]) -> bool:
    """Whether one of our own workers speaks: it tells what Vast's never do."""
    return "slots" in report


def condition_of(report: Mapping[str, Any]) -> Condition:
    """What the report by itself says. ``loadtime`` stands in one report only before 1.1, ``max_perf`` in each."""
    if text(report, "error_msg") or not _url_fits(text(report, "url")):
        return Condition.ERROR if text(report, "error_msg") or number(report, "max_perf") else Condition.STARTING
    if report.get("draining") is True:
        return Condition.DRAINING
    loaded = number(report, "loadtime") > 0 or (
        (version_of(report) or (0, 0)) < (1, 1) and number(report, "max_perf") > 0
    )
    return Condition.READY if loaded else Condition.STARTING


@lru_cache(maxsize=URLS_KEPT)
def _url_fits(url: str) -> bool:
    try:
        normalise_url(url)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What we know beside the report: the moment (monotonic) of it, our own requests that it counts, our verdict."""

    heard_at: float
    ours: int
    condition: Condition
    is_full: bool = False


def view_of(
    worker: str, report: Mapping[str, Any], *, endpoint: EndpointSettings, group: GroupSettings, known: Known
) -> WorkerView:
    """The worker as policies see it."""
    own = is_ours(report)
    slots = min(max(int(number(report, "slots", 1)), 1), MOST_SLOTS)
    engines = min(max(int(number(report, "engines", max(slots - 1, 1))), 1), MOST_SLOTS)
    models, warm = names(report, "models"), names(report, "models_warm")
    vram = number(report, "vram_gib") or group.vram_gib
    return WorkerView(
        worker=worker,
        endpoint=endpoint.name,
        perf=number(report, "max_perf"),
        condition=known.condition,
        engines=engines,
        slots=0 if known.is_full else slots if own else engines + 1,
        lead_s=endpoint.lead_time,
        admit_s=None if own else _admit_s(endpoint),
        heard_at=known.heard_at,
        foreign_load=foreign_load(report, ours=known.ours),
        models=frozenset(models) if models is not None else None,
        warm=warm,
        room=int(number(report, "room", 2)),
        swap_s=_swaps(report),
        vram_gib=vram,
        dialects=_dialects(report, own=own),
        price=group.price,
    )


def foreign_load(report: Mapping[str, Any], *, ours: int) -> float:
    """Admitted work that nobody of ours gave it: its load, less the share of our ``ours`` requests.

    By count, because the worker's own figure for a request need not be the cost that its caller announced."""
    load = number(report, "cur_load")
    count = max(int(number(report, "num_requests_working")), len(working(report)))
    if count <= 0:
        return 0.0 if ours else load
    return load * max(count - ours, 0) / count


def _dialects(report: Mapping[str, Any], *, own: bool) -> frozenset[str] | None:
    """What relayed requests may need; those of direct mode need none of it."""
    told = names(report, "dialects")
    if not own:
        return frozenset((WRAPPER_SYNC,))
    return None if told is None else frozenset((*told, WRAPPER_SYNC) if WRAPPER in told else told)


def _admit_s(endpoint: EndpointSettings) -> float | None:
    if endpoint.worker_queue_time is None:
        return None
    return min(endpoint.worker_queue_time, endpoint.max_queue_time)


def _swaps(report: Mapping[str, Any]) -> dict[str, float]:
    value = report.get("swap_s")
    if not isinstance(value, Mapping):
        return {}
    return {name: number(value, name) for name in value if isinstance(name, str)}
