"""Values that the router's parts hand to each other: workers as policies see them, asks, decisions. No behaviour.

Times are seconds of one monotonic clock, given by the caller. Work is in workload units (a benchmark run is 100), speed
(``perf``) in units per second, prices in dollars per hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Policy(StrEnum):
    """How workers are chosen; the first is the default."""

    HYBRID = "hybrid"
    PROPORTIONAL = "proportional"
    LEAST_WORK = "least-work"
    POWER_OF_TWO = "power-of-two"


class Priority(StrEnum):
    """Classes of asks. Low ones go after high ones until they have waited long enough to count as high."""

    HIGH = "high"
    LOW = "low"


class Condition(StrEnum):
    """What a worker may be given. Only ``READY`` ones get work."""

    READY = "ready"
    STARTING = "starting"
    DRAINING = "draining"
    ERROR = "error"
    STALE = "stale"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as its last report, and what the operator knows of it, show it; the registry makes these.

    ``perf`` counts all engines together. ``slots`` is how many requests it may hold at once, running and prepared; one
    more than it has engines is handed over only ``lead_s`` before an engine is expected to be free. ``admit_s`` is the
    queue time over which a stock worker refuses (None: it does not). ``foreign_load`` is admitted work at ``heard_at``
    that no router of ours assigned. ``models`` are installed, ``warm`` resident, least recently used first (None: not
    known); ``room`` is how many models stay resident. ``swap_s`` is the measured load time by model. A transfer takes
    ``latency_s`` and ``s_per_mb`` for each MB of input.
    """

    worker: str
    endpoint: str
    perf: float
    condition: Condition = Condition.READY
    engines: int = 1
    slots: int = 1
    lead_s: float = 0.0
    admit_s: float | None = None
    heard_at: float = 0.0
    foreign_load: float = 0.0
    models: frozenset[str] | None = None
    warm: tuple[str, ...] | None = None
    room: int = 2
    swap_s: Mapping[str, float] = field(default_factory=dict)
    vram_gib: float | None = None
    dialects: frozenset[str] | None = None
    price: float = 0.0
    latency_s: float = 0.0
    s_per_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request that wants a worker.

    ``cost`` is what the caller announced and the worker will count; ``size`` is what we expect (median), ``size_p90``
    its upper end. ``family`` names what its speed is learned for, ``models`` are the large files that it needs resident
    (both empty where the router does not see the workflow). ``refused_by`` holds workers that it must not get again.
    """

    request_id: str
    endpoint: str
    arrived_at: float
    cost: float
    size: float
    size_p90: float = 0.0
    tenant: str = ""
    priority: Priority = Priority.HIGH
    family: str = ""
    models: tuple[str, ...] = ()
    vram_gib: float = 0.0
    dialect: str = ""
    input_mb: float = 0.0
    refused_by: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A request given to a worker; it counts against the worker from ``at`` until it is settled."""

    request_id: str
    worker: str
    endpoint: str
    at: float
    cost: float
    size: float
    family: str = ""
    models: tuple[str, ...] = ()
    input_mb: float = 0.0
    expected_start_at: float = 0.0
    expected_finish_at: float = 0.0


class Reason(StrEnum):
    """Why a decision is as it is."""

    EARLIEST_FINISH = "earliest-finish"
    FASTEST_IDLE = "fastest-idle"
    RANDOM_BY_SPEED = "random-by-speed"
    BETTER_OF_TWO = "better-of-two"
    BETTER_WORKER_SOON = "better-worker-soon"
    MODEL_WARM_SOON = "model-warm-soon"
    ALL_BUSY = "all-busy"
    NONE_ELIGIBLE = "none-eligible"
    NO_WORKER = "no-worker"
    LATER = "later"
    TENANT_LIMIT = "tenant-limit"
    TOO_MANY_WAITING = "too-many-waiting"
    BETWEEN_POLLS = "between-polls"


class Exclusion(StrEnum):
    """Why a worker is no candidate for an ask."""

    NOT_READY = "not-ready"
    NO_SPEED = "no-speed"
    REFUSED = "refused"
    VRAM = "vram"
    MODEL = "model"
    DIALECT = "dialect"
    FULL = "full"
    RESTING = "resting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker's figures for one ask, in seconds from the decision; ``total_s`` is what was compared.

    ``cost_s`` is its price as time, ``loss_s`` what loading models again will take that it pushes out.
    """

    worker: str
    idle: bool
    wait_s: float
    transfer_s: float
    swap_s: float
    run_s: float
    cost_s: float
    total_s: float
    loss_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision with the numbers behind it: candidates looked at (best first), and how many were excluded why.

    ``load`` is the offered load over the capacity, ``theta`` how far slow workers are used for it (0 to 1).
    """

    request_id: str
    policy: Policy
    reason: Reason
    at: float
    text: str
    worker: str | None
    load: float
    theta: float
    workers: int
    candidates: tuple[Candidate, ...]
    excluded: Mapping[Exclusion, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What was decided for an ask now: an assignment, or that it waits (for ``awaited``, where one is known)."""

    ask: Ask
    reason: Reason
    assignment: Assignment | None = None
    awaited: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """When a new ask would start, in seconds from now: expected, and the range to tell a caller."""

    likely_s: float
    low_s: float
    high_s: float
