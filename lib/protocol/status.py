"""What a worker tells its autoscaler: the bodies of ``/worker_status/`` and ``/delete_requests/``.

Wire format of Vast's PyWorker 1.9.1 (protocol version 1.1.0), foreign spellings kept. Only shapes here; the figures
come from ``lib.fleet.ledger``, the sending is ``lib.fleet.reporter``'s.
"""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

PROTOCOL_VERSION = "1.1.0"
"""Announced in each report; a router chooses the signature form by it (1.1 and later: form D)."""
ROUTER_HEADER = "X-Pyworker-Router"
"""On the answers of a router of ours to ``/pubkey/`` and ``/worker_status/``: it understands ``WorkerFacts``."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()


class WorkerStatus(_Wire):
    """Body of ``POST /worker_status/``. A receiver must bear with any field but ``id`` missing.

    Loads are amounts in workload units: ``cur_load`` now, ``new_load``, ``rej_load`` and ``cur_perf`` since the last
    report that got through. ``max_perf`` is units per second, ``loadtime`` seconds, disk figures GiB.
    """

    id: int
    mtoken: str = ""
    version: str = ""
    loadtime: float = 0.0
    cur_load: float = 0.0
    new_load: float = 0.0
    rej_load: float = 0.0
    cur_perf: float = 0.0
    max_perf: float = 0.0
    error_msg: str = ""
    num_requests_working: int = 0
    num_requests_recieved: int = 0
    additional_disk_usage: float = 0.0
    disk_usage: float = 0.0
    working_request_idxs: tuple[int, ...] = ()
    cur_capacity: int = 0
    max_capacity: int = 0
    url: str = ""


class WorkerFacts(_Wire):
    """What a worker of ours adds to its status for a router of ours, which says ``ROUTER_HEADER``; never for Vast's.

    ``slots`` is how many requests it takes at once, running and prepared, over ``engines``; ``backlog_s`` the predicted
    wait of one more. ``models`` are the large files that its nodes offer, ``models_warm`` those most likely resident,
    least recently used first, ``room`` how many stay so, ``swap_s`` measured load times, all by the names that nodes
    use (``lib.workflow.models``). What is not known is left out.
    """

    slots: int
    engines: int
    draining: bool = False
    backlog_s: float | None = None
    models: tuple[str, ...] | None = None
    models_warm: tuple[str, ...] = ()
    room: int = 1
    swap_s: Mapping[str, float] = {}
    dialects: tuple[str, ...] = ()
    vram_gib: float | None = None
    gpu_name: str | None = None

    def added_to(self, status: WorkerStatus) -> bytes:
        """Return the body of a report with these keys behind Vast's."""
        return status.to_json()[:-1] + b"," + self.model_dump_json(exclude_none=True).encode()[1:]


class RequestOutcome(StrEnum):
    """How a request ended for the router."""

    SUCCESS = "Success"
    ERROR = "Error"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"


class DeletedRequest(_Wire):
    """A request that the worker is done with. Times are epoch seconds, 0.0 = never."""

    request_idx: int
    success: bool
    status: RequestOutcome
    entered_queue_at: float = 0.0
    work_started_at: float = 0.0
    work_completed_at: float = 0.0


class DeleteRequests(_Wire):
    """Body of ``POST /delete_requests/`` since 2026-04."""

    worker_id: int
    mtoken: str = ""
    requests: tuple[DeletedRequest, ...] = ()
