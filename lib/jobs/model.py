"""What a job is: frozen values, no I/O. To this package a workflow is an opaque JSON object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from lib.errors import ServiceError
from lib.jobs.copies import changed

Workflow = dict[str, Any]
"""A graph in ComfyUI's API format, ``{node_id: {"class_type": str, "inputs": {...}}}``; opaque here."""


class JobStatus(StrEnum):
    """Where a job is in its life; the last three are outcomes and never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    terminal: bool

    def __init__(self, word: str) -> None:
        self.terminal = word not in ("queued", "running")


class Stage(StrEnum):
    """The part of the work that a job is in, or was last in."""

    PREPARE = "prepare"
    EXECUTE = "execute"
    COLLECT = "collect"
    DELIVER = "deliver"


class OnDisconnect(StrEnum):
    """What a lost connection means for the job behind it."""

    CANCEL = "cancel"
    KEEP = "keep"


class OutputKind(StrEnum):
    """What a file (or value) is, decided by its content and name, never by ComfyUI's key."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    MODEL_3D = "3d"
    TEXT = "text"
    LATENT = "latent"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Target:
    """Where a job's files go. Secrets never leave this value: ``repr`` hides them."""

    bucket_name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    region: str | None = None
    prefix: str = ""
    folder: str = ""  # the request's own, behind prefix and tenant; ends in "/" unless empty
    connect_timeout_s: float = 60.0
    connect_attempts: int = 3
    operator: bool = False
    """True when these are the operator's own credentials and endpoint (trusted: no address guard)."""
    plain: bool = False
    """Keys are ``prefix`` and file name, nothing between (Salad's contract), and URLs are ``s3://bucket/key``."""


class StoreKind(StrEnum):
    """Storages other than S3 that files are brought to."""

    AZURE = "azure"
    HUGGING_FACE = "hf"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTarget:
    """Where a job's files go, in the operator's own account there; the keys to it are settings, never here. ``place``
    by kind: ``azure``: ``container prefix``; ``hf``: ``repo repo_type revision directory``; ``http``: ``url_prefix``.
    """

    kind: StoreKind
    place: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutTarget:
    """Presigned PUT URLs of the caller's own, one a file, in the order of the outputs; ``headers`` go with each."""

    urls: tuple[str, ...] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSpec:
    """Into which format pictures are turned (``png jpeg jpg webp avif``, also the new extension), with the encoder's
    options by libvips' names. ``warnings`` name what was asked and can't be done."""

    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailSpec:
    """A small copy of each picture, fitting into ``width`` x ``height`` pixels."""

    width: int
    height: int
    format: str = "webp"


class JobEvent(StrEnum):
    """What a webhook may be told."""

    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


OUTCOMES = frozenset({JobEvent.COMPLETED, JobEvent.FAILED, JobEvent.CANCELLED})


class WebhookScheme(StrEnum):
    """Signature, headers and schedule: the API wrapper's own, Standard Webhooks, RunPod's, or one of Salad's two
    (plain; signed with the operator's secret, whoever is told)."""

    WRAPPER = "wrapper"
    STANDARD = "standard"
    RUNPOD = "runpod"
    SALAD = "salad"
    SALAD_SIGNED = "salad_signed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    """Whom to tell of which events. ``secret`` signs the body in the scheme's way; ``message_name`` is what signed
    messages are called there, where that is the caller's own word."""

    url: str = field(repr=False)
    scheme: WebhookScheme = WebhookScheme.WRAPPER
    events: frozenset[JobEvent] = OUTCOMES
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 30.0
    secret: str | None = field(default=None, repr=False)
    message_name: str | None = None
    operator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """One message to a webhook as it is stored: rendered once, sent until it is taken or given up. ``message_id``
    stays the same over all attempts; ``next_at`` is when it is due."""

    message_id: str
    job_id: str
    owner: str
    event: JobEvent
    target: WebhookTarget
    body: bytes = field(repr=False)
    created_at: datetime
    next_at: datetime
    attempts: int = 0
    last_error: str | None = None
    dead: bool = False

    @property
    def host(self) -> str:
        """``host:port`` of the target, all that may be told of its URL; "" where there is none."""
        try:
            return urlsplit(self.target.url).netloc.rpartition("@")[2].lower()
        except ValueError:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a caller gave us to read inputs with. ``pattern`` is a URL glob (``s3://bucket/*``). ``values`` by kind:
    ``s3``: ``access_key_id secret_access_key session_token endpoint_url region``; ``http``: headers; ``query``:
    ``query_param query_value``, set on the URL that is asked; ``comfy_org``: ``api_key``, with which ComfyUI's partner
    nodes are paid (no pattern)."""

    kind: str
    pattern: str = ""
    salad_pattern: bool = False
    """The pattern is read by Salad's rules: ``*`` never passes a ``/``, ``?`` is any character."""
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedInput:
    """A file that a request brings under a name of its own: every input of the graph that is this name means it.
    ``value``: base64, a data URI, or a URL. ``field``: where the request has it, for error texts."""

    name: str
    value: str = field(repr=False)
    field: str = "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySpec:
    """What the caller asked to be done with the outputs.

    ``keep_metadata``: ``None`` leaves files as ComfyUI wrote them. ``base_url`` is how this caller reaches us
    (``https://host:port``), for signed URLs of our own; ``None``: no such URLs.
    """

    s3: S3Target | None = None
    store: StoreTarget | None = None
    put: PutTarget | None = None
    must_arrive: bool = False
    """A file that could not be brought there fails the job; otherwise its entry says so."""
    inline_base64: bool = False
    inline_large: bool = False
    """Also files over the limit for a single one; that for all of a job together holds."""
    convert: ConvertSpec | None = None
    keep_metadata: bool | None = None
    thumbnail: ThumbnailSpec | None = None
    webhooks: tuple[WebhookTarget, ...] = ()
    include_temp: bool = False
    base_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How much work a workflow looks like: ``units`` by formula (100 = SD 1.5, 512x512, 20 steps, batch 1), and
    ``shape``, a key that workflows of the same work share, under which what they took is remembered."""

    units: float
    shape: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """An ``Idempotency-Key`` and its scope (tenant and route)."""

    scope: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a dialect asks for before acceptance.

    ``workflow`` is the graph as JSON bytes (a request that waits is not kept parsed); ``body_hash`` identifies the
    request for repeated ``request_id``s; ``cost`` is in workload units, ``None`` = estimate it;
    ``max_wait_s`` refuses the job when its predicted wait before start is longer; ``timeout_s`` bounds execution.
    """

    request_id: str
    dialect: str
    workflow: bytes = field(repr=False)
    body_hash: str = ""
    owner: str = ""
    """Tenant, whose jobs nobody else sees; empty: the operator's own, or a caller of the public listener."""
    stranger: bool = False
    """Its caller is not the operator: its files get names that nobody can guess, and it finds nobody else's."""
    cost: float | None = None
    estimate: Estimate | None = None
    files: tuple[NamedInput, ...] = ()
    low_priority: bool = False
    """Gets a turn when nobody else waits for one."""
    ttl_s: float | None = None
    """Its whole life from acceptance on: then it is cancelled if need be, and forgotten. ``None``: the store's rule."""
    patient: bool = False
    """Accepted while the worker starts, and waits until it is ready."""
    keep_partial: bool = False
    """Files that were there when a node failed, or beside outputs that ComfyUI refused, count as a result; what went
    wrong is among the job's warnings then."""
    tells_traceback: bool = False
    """The error of a node that failed says where in its code that was: some lines of its source are among that."""
    repeatable: bool = False
    """If it fails its request is kept as long as its result, so that it can be submitted again."""
    idempotency: Idempotency | None = None
    credentials: tuple[Credential, ...] = field(default=(), repr=False)
    traceparent: str | None = None
    """W3C trace context of the request."""
    delivery: DeliverySpec = field(default_factory=DeliverySpec)
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    disconnect_grace_s: float = 0.0
    max_wait_s: float | None = None
    timeout_s: float | None = None
    keep_response: bool = True
    """Keep ComfyUI's history object for the caller (``comfyui_response``)."""
    internal: bool = False
    """Our own benchmark or warm-up: passes admission while the worker is not ready, tells no webhook."""
    engine: str | None = None
    """Run only on this engine (the benchmark measures each one)."""
    tag: int | None = None
    """A router's own number for this request (Vast: ``request_idx``), reported back when the job ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One thing that ComfyUI produced.

    ``filename`` and ``subfolder`` are what the caller's own prompt would have given; ``local_path`` is where the file
    really is. ``source_key`` is ComfyUI's key (``images``, ``gifs``, ``audio``, ...). Delivery fills ``url``,
    ``data_base64`` or the two error fields. Sizes in bytes, dimensions in pixels.
    """

    node_id: str
    kind: OutputKind
    source_key: str
    filename: str = ""
    subfolder: str = ""
    folder_type: str = "output"
    local_path: str = ""
    mime_type: str = "application/octet-stream"
    size_bytes: int = 0
    width: int | None = None
    height: int | None = None
    text: str | None = None
    url: str | None = field(default=None, repr=False)
    url_expires_at: datetime | None = None
    thumbnail_url: str | None = field(default=None, repr=False)
    thumbnail_base64: str | None = field(default=None, repr=False)
    thumbnail_path: str = ""
    """Where the thumbnail really is, beside the file."""
    upload_error: str | None = None
    data_base64: str | None = field(default=None, repr=False)
    error: str | None = None
    warnings: tuple[str, ...] = ()
    """What delivery could not do as asked (metadata that stays, an animation that became a still)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """When each thing happened (``*_at``: aware UTC) and how long the stages took (``*_s``: seconds)."""

    accepted_at: datetime
    execution_started_at: datetime | None = None
    finished_at: datetime | None = None
    prepare_s: float | None = None
    wait_s: float | None = None
    execute_s: float | None = None
    collect_s: float | None = None
    deliver_s: float | None = None
    node_starts_s: Mapping[str, float] = field(default_factory=dict)
    """When each node began, by its id, counted from the start of the execution; cached ones never did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Latest news of a running job; ``percent`` is 0-100 and never goes back."""

    percent: float = 0.0
    node_id: str | None = None
    node_type: str | None = None
    value: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A picture of the work in progress; the newest one replaces the others."""

    node_id: str
    mime_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted request until its terminal state; a snapshot, replaced as a whole on each change.

    ``job_id`` is ours and unique; ``request_id`` (in the spec) is the caller's and may come again: ``run`` counts.
    ``sequence`` is the order of acceptance. ``response`` is ComfyUI's history object, already cleaned for callers.
    """

    job_id: str
    spec: JobSpec
    sequence: int
    cost: float
    timings: Timings
    run: int = 1
    status: JobStatus = JobStatus.QUEUED
    stage: Stage = Stage.PREPARE
    message: str = "Request accepted"
    attempts: int = 0
    posts: int = 0
    """How often it was, or was about to be, posted to an engine; prompt ids follow from it (``prompt_id_of``)."""
    shortages: int = 0
    """How many of the ``attempts`` (starts) ended for want of memory."""
    expected_s: float | None = None
    expected_wait_s: float | None = None
    """Predictions made at acceptance: execution, and wait before its start."""
    engine: str | None = None
    prompt_id: str | None = None
    progress: Progress = field(default_factory=Progress)
    inputs: tuple[str, ...] = ()
    """Paths of the files that were brought in for it; they stay while it lives."""
    outputs: tuple[Output, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Those of the ``warnings`` that tell what is missing from the result; the others are notes."""
    response: Mapping[str, Any] = field(default_factory=dict)
    error: ServiceError | None = None
    stopping: bool = False
    """Cancelled by its caller and not off the engine yet: it will end as cancelled; ``message`` is the reason."""
    expires_at: datetime | None = None
    """When it is cancelled if need be, and forgotten (``ttl_s``, or earlier); ``None``: by the store's rule."""

    with_ = changed
    """Return a copy with some fields changed; ``lib.jobs.transitions`` changes the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as a watcher sees it. ``version`` grows with each change; ``position`` counts from 1 among the
    ``waiting_count`` jobs that wait for a GPU, 0 = not waiting."""

    job: Job
    version: int
    position: int = 0
    waiting_count: int = 0
    expected_wait_s: float | None = None
    preview: Preview | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list, newest first. ``owner`` ``None``: everybody's. ``before`` is the ``sequence`` that the
    page before ended with."""

    owner: str | None = None
    statuses: frozenset[JobStatus] = frozenset()
    dialect: str | None = None
    request_id: str | None = None
    before: int | None = None
    limit: int = 50
