"""All settings of the worker: one frozen tree, read once from the environment.

The only module that reads the environment. Every field has a type, a unit in its name, a default, bounds and a
sentence; ``docs/reference.md`` lists each one. Names of Vast's PyWorker, of the API wrapper, of RunPod's
worker-comfyui and of Salad's comfyui-api are honoured as aliases. An empty variable counts as unset.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MEBIBYTE = 1 << 20
ALIASES_ONLY = "="
"""As ``env_prefix``: keeps a variable that happens to be named like a field (``PYTHON``, ``port``) from being read,
since no variable's name can hold this; fields still can be given by name in code."""


class SettingsError(Exception):
    """A variable has a value that can't be used; the text names variable, value and what was expected."""


def _split(value: object) -> object:
    if isinstance(value, str):
        parts = (part.strip().rstrip("/") for part in value.split(","))
        return tuple(dict.fromkeys(part for part in parts if part))
    return value


def _truth(value: object) -> object:
    if isinstance(value, str):
        return value.strip().lower() in {"1", "true", "t", "yes", "y", "on"}
    return value


def _level(value: str) -> str:
    """Also the words of comfyui-api; ``trace`` is our lowest level, ``warn`` and ``fatal`` are Python's own."""
    level = "DEBUG" if value.upper() == "TRACE" else value
    if level.upper() not in logging.getLevelNamesMapping():
        raise ValueError("expected DEBUG, INFO, WARNING, ERROR or CRITICAL (or trace, warn, fatal)")
    return level


def _base_url(value: str) -> str:
    """``host:port`` is taken for http, as people write it."""
    url = value if "://" in value else f"http://{value}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not a base URL; expected one such as http://127.0.0.1:8188")
    return url


def _hook_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not the URL of a webhook; expected one such as https://example.com/hook")
    return value


def _proxy_url(value: SecretStr) -> SecretStr:
    """Secret, as it may have a password in it."""
    try:
        url = _base_url(value.get_secret_value())
    except ValueError as error:
        raise ValueError("not the URL of an http proxy; expected one such as http://proxy.internal:3128") from error
    return SecretStr(url)


def _base_urls(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_base_url(value) for value in values)


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A comma list: trimmed, trailing slashes off, empty parts dropped, duplicates dropped, order kept."""
Flag = Annotated[bool, BeforeValidator(_truth)]
"""``1 true yes on`` in any letter case; everything else is false."""


Who = Literal["off", "operator", "known", "any"]
"""Whose requests may: nobody's, those without a tenant, those of tenants too, everybody's."""


def _env(default: Any, *names: str, help: str, **bounds: Any) -> Any:  # noqa: A002
    return Field(default, validation_alias=AliasChoices(*names), description=help, **bounds)


def _named_after(prefix: str) -> Callable[[object], object]:
    """Collects the variables whose names begin so, by the rest of their names; none that is empty."""

    def collect(given: object) -> object:
        found = {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}
        return given or {name: value for name, value in sorted(found.items()) if name and value}

    return collect


class EnvironmentSettings(BaseSettings):
    """How every group of settings is read, ours and those of ``benchmark`` and ``provisioning``: frozen, by documented
    names in their exact case, an empty variable counting as unset."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        case_sensitive=True,
        env_prefix=ALIASES_ONLY,
    )


class ServerSettings(EnvironmentSettings):
    """Listeners, TLS, limits of a request."""

    serverless_flag: Flag = _env(False, "SERVERLESS", help="true = run as a serverless worker (reports, signatures).")
    worker_port: int = _env(3000, "WORKER_PORT", help="Public listener (signed requests).", ge=0, le=65535)
    worker_http_port: int | None = _env(
        None,
        "WORKER_HTTP_PORT",
        help="Plain-HTTP listener for /session/end; WORKER_PORT + 1 when unset.",
        ge=0,
        le=65535,
    )
    worker_host: str | None = _env(
        None, "WORKER_HOST", help="Address of the public listener; 0.0.0.0 in serverless mode, else 127.0.0.1."
    )
    api_port: int | None = _env(
        None, "API_PORT", "PORT", help="API listener; 18288, or the next free port when that is taken.", ge=0, le=65535
    )
    api_host: str = _env(
        "127.0.0.1", "API_HOST", "HOST", help="Address of the API listener; :: = every one, of IPv4 too."
    )
    api_allow_open: Flag = _env(
        False, "API_ALLOW_OPEN", help="true = allow the API listener beyond loopback although there are no API keys."
    )
    api_allowed_hosts: Listed = _env(
        (), "API_ALLOWED_HOSTS", help="Further host names that callers use for the API listener (a proxy's); * = any."
    )
    use_ssl: Flag | None = _env(None, "USE_SSL", help="TLS on the public listener; by default only in serverless mode.")
    ssl_cert_path: Path = _env(Path("/etc/instance.crt"), "SSL_CERT_PATH", help="Certificate, PEM.")
    ssl_key_path: Path = _env(Path("/etc/instance.key"), "SSL_KEY_PATH", help="Private key, PEM.")
    max_body_bytes: int = _env(
        100 * MEBIBYTE, "MAX_BODY_BYTES", help="Largest request body; ComfyUI's own limit is 100 MiB.", ge=1024
    )
    max_body_size_mb: int | None = _env(
        None, "MAX_BODY_SIZE_MB", help="The same in MiB, as comfyui-api has it; MAX_BODY_BYTES wins.", ge=1
    )
    public_base_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None,
        "PUBLIC_BASE_URL",
        help="How callers reach this worker, for links in answers; the request's own host, or PUBLIC_IPADDR with the "
        "mapped port, when unset.",
    )
    long_poll_max_s: float = _env(300.0, "LONG_POLL_MAX_S", help="Longest ?wait= of one /result request.", gt=0)
    sse_heartbeat_s: float = _env(15.0, "SSE_HEARTBEAT_S", help="A quiet event stream sends a comment so often.", gt=0)
    sse_interval_s: float = _env(
        0.05,
        "SSE_INTERVAL_S",
        help="Shortest time between two events of one stream; later news replaces earlier.",
        ge=0,
    )
    primary_dialect: Literal["native", "wrapper", "runpod", "salad"] = _env(
        "native",
        "PRIMARY_DIALECT",
        help="Whose rules /health follows (wrapper = 503 while no engine is healthy; salad = 500 until the first "
        "warm-up), and who answers about jobs that nobody knows.",
    )
    drain_timeout_s: float = _env(30.0, "DRAIN_TIMEOUT_S", help="How long SIGTERM waits for running jobs.", ge=0)


class AccessSettings(EnvironmentSettings):
    """Who may use the API listener, and how much of it."""

    api_keys: SecretStr | None = _env(
        None,
        "API_KEYS",
        help="Keys, comma list of name:key or name:sha256:<hex>; a name may carry its tenant and the scope admin, as "
        "tenant/name+admin.",
    )
    api_keys_file: Path | None = _env(
        None, "API_KEYS_FILE", help="YAML file of hashed keys; `python -m lib.serving.keys new NAME` writes an entry."
    )
    required: Flag = _env(
        False,
        "API_KEYS_REQUIRED",
        help="true = ask for a key on loopback too, where everybody behind a proxy of this host looks local.",
    )
    requests_per_minute: float | None = _env(
        None, "API_RATE_PER_MINUTE", help="Jobs that one key may submit a minute; a key's own limit wins.", gt=0
    )
    max_in_flight: int | None = _env(
        None, "API_MAX_IN_FLIGHT", help="Unfinished jobs that one key may have; a key's own limit wins.", ge=1
    )
    output_url_expires_s: int = _env(
        86400,
        "OUTPUT_URL_EXPIRES_S",
        help="Life of a signed URL of our own to an output file; never longer than the result's, RESULT_TTL_S.",
        ge=1,
    )


class EngineSettings(EnvironmentSettings):
    """ComfyUI: where it is, how it is started, watched and asked."""

    api_base: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "COMFYUI_API_BASE", help="A ComfyUI to attach to; never start another one."
    )
    backends: Annotated[Listed, AfterValidator(_base_urls)] = _env(
        (), "COMFYUI_BACKENDS", help="Several ComfyUI servers to attach to, comma list."
    )
    install_path: Path | None = _env(
        None, "COMFYUI_INSTALL_PATH", "COMFY_HOME", help="Folder of an installed ComfyUI (main.py)."
    )
    command: str | None = _env(
        None,
        "COMFYUI_CMD",
        "CMD",
        help="Command that starts ComfyUI (quotes as in a shell, which there is none), instead of one that we put "
        "together. It is told DIRECT_ADDRESS and COMFYUI_PORT_HOST, and must stay in the foreground.",
    )
    install_record: Path | None = _env(
        None, "COMFYUI_INSTALL_RECORD", help="JSON written by provisioning; <workspace>/comfyui.json when unset."
    )
    workspace: Path = _env(Path("workspace"), "WORKSPACE_DIR", "WORKSPACE", help="Folder for everything we write.")
    processes: int = _env(
        1, "COMFYUI_PROCESSES", help="How many ComfyUI processes to start (one a GPU when 0).", ge=0, le=64
    )
    port: int = _env(
        18188,
        "COMFYUI_PORT",
        "COMFYUI_PORT_HOST",
        help="Port of the first ComfyUI that we start; next ones follow. With CMD, which should listen there: its own "
        "--port, or else 8188, when unset.",
        ge=0,
        le=65535,
    )
    address: str = _env(
        "127.0.0.1",
        "COMFYUI_ADDRESS",
        "DIRECT_ADDRESS",
        help="Address that a ComfyUI which we start listens on; --listen in COMFYUI_ARGS wins.",
    )
    args: str = _env("", "COMFYUI_ARGS", help="Further flags for a ComfyUI that we start; not with CMD.")
    startup_timeout_s: float = _env(
        600.0, "COMFYUI_STARTUP_TIMEOUT_S", help="How long to wait for ComfyUI to answer.", gt=0
    )
    startup_tries: int | None = _env(
        None,
        "STARTUP_CHECK_MAX_TRIES",
        help="The same as so many times STARTUP_CHECK_INTERVAL_S, as comfyui-api has it; COMFYUI_STARTUP_TIMEOUT_S "
        "wins.",
        ge=1,
    )
    startup_interval_s: int | None = _env(
        None,
        "STARTUP_CHECK_INTERVAL_S",
        help="COMFY_API_AVAILABLE_INTERVAL_MS in seconds, which wins; one second for STARTUP_CHECK_MAX_TRIES when "
        "unset.",
        ge=1,
    )
    restart_cmd: str | None = _env(
        None, "COMFYUI_RESTART_CMD", help="Command that restarts a ComfyUI that a supervisor owns."
    )
    always_restart: Flag = _env(
        True, "ALWAYS_RESTART_COMFYUI", help="false = exit when ComfyUI ends, instead of starting it again."
    )
    restart_backoff_s: float = _env(1.0, "COMFYUI_RESTART_BACKOFF_S", help="First pause before a restart.", ge=0)
    restart_backoff_max_s: float = _env(30.0, "COMFYUI_RESTART_BACKOFF_MAX_S", help="Longest such pause.", ge=0)
    stall_timeout_s: float = _env(
        5.0, "COMFYUI_STALL_TIMEOUT_S", help="Pending prompts with nothing running for so long = dead executor.", gt=0
    )
    interrupt_timeout_s: float = _env(
        30.0, "COMFYUI_INTERRUPT_TIMEOUT_S", help="A node that ignores an interrupt for so long costs a restart.", gt=0
    )
    request_timeout_s: float = _env(30.0, "COMFYUI_REQUEST_TIMEOUT_S", help="One HTTP call to ComfyUI.", gt=0)
    history_poll_s: float = _env(
        2.0, "COMFYUI_HISTORY_POLL_S", help="Back-stop beside the socket: how often a quiet prompt is looked up.", gt=0
    )
    output_path: Path | None = _env(
        None,
        "COMFYUI_OUTPUT_PATH",
        "OUTPUT_DIR",
        help="Output folder of ComfyUI; with CMD <ComfyUI>/output when unset.",
    )
    input_path: Path | None = _env(
        None, "COMFYUI_INPUT_PATH", "INPUT_DIR", help="Input folder of ComfyUI; with CMD <ComfyUI>/input when unset."
    )
    failure_threshold: int = _env(
        3,
        "BACKEND_FAILURE_THRESHOLD",
        "WEBSOCKET_RECONNECT_ATTEMPTS",
        help="Connection failures in a row until an engine counts as down.",
        ge=1,
    )
    comfy_org_api_key: SecretStr | None = _env(
        None, "COMFY_ORG_API_KEY", help="Pays for partner nodes of every job that brings no key of its own."
    )
    log_level: Annotated[str, AfterValidator(_level)] = _env(
        "INFO", "COMFY_LOG_LEVEL", help="Least level that a ComfyUI which we start logs."
    )
    extra_model_paths: Listed = _env(
        (), "COMFYUI_EXTRA_MODEL_PATHS", help="Files in the form of extra_model_paths.yaml for a ComfyUI that we start."
    )
    probe_interval_ms: float = _env(
        250.0,
        "COMFY_API_AVAILABLE_INTERVAL_MS",
        help="A ComfyUI that comes up is asked so often, milliseconds.",
        ge=1,
    )
    probe_attempts: int = _env(
        0,
        "COMFY_API_AVAILABLE_MAX_RETRIES",
        help="So many times at most, one that we did not start; 0 = until COMFYUI_STARTUP_TIMEOUT_S.",
        ge=0,
    )
    reconnect_delay_s: float = _env(
        0.25, "WEBSOCKET_RECONNECT_DELAY_S", help="First pause before ComfyUI's socket is opened again.", ge=0
    )
    socket_trace: Flag = _env(
        False, "WEBSOCKET_TRACE", help="true = log the type of each message of ComfyUI's socket (level DEBUG)."
    )
    allow_api_nodes: Flag = _env(
        False,
        "COMFYUI_ALLOW_API_NODES",
        help="true = start ComfyUI with partner (paid) nodes enabled; so it is with COMFY_ORG_API_KEY.",
    )
    embed_metadata: Flag = _env(
        False, "COMFYUI_EMBED_METADATA", help="true = files of a ComfyUI that we start carry their whole workflow."
    )
    preview_method: Literal["none", "auto", "latent2rgb", "taesd"] = _env(
        "none",
        "COMFYUI_PREVIEW_METHOD",
        help="How a ComfyUI that we start makes previews for event streams that ask for them; costs GPU time.",
    )
    recycle_after_jobs: int | None = _env(
        None, "COMFYUI_RECYCLE_AFTER_JOBS", help="Restart ComfyUI, when it is idle, after so many jobs.", ge=1
    )
    max_rss_bytes: int | None = _env(
        None, "COMFYUI_MAX_RSS_BYTES", help="Restart ComfyUI, between jobs, when its process is larger.", ge=1
    )
    min_free_memory: float = _env(
        0.03,
        "COMFYUI_MIN_FREE_MEMORY",
        help="Share of the host's memory; with less free, ComfyUI is asked to unload, then restarted between jobs.",
        ge=0,
        lt=1,
    )
    visible_devices: Listed = _env(
        (), "CUDA_VISIBLE_DEVICES", help="GPUs that may be used, comma list; all of them when unset."
    )

    @property
    def attached_bases(self) -> tuple[str, ...]:
        """Base URLs of servers that we did not start, without trailing slashes."""
        return self.backends or ((self.api_base.rstrip("/"),) if self.api_base else ())


class JobsSettings(EnvironmentSettings):
    """Admission, pools, retention of results."""

    max_queue_size: int = _env(1000, "MAX_QUEUE_SIZE", help="Most jobs accepted and not finished.", ge=1)
    prepare_workers: int = _env(16, "PREPROCESS_WORKERS", help="Jobs that fetch inputs at the same time.", ge=1)
    deliver_workers: int = _env(8, "POSTPROCESS_WORKERS", help="Jobs that upload at the same time.", ge=1)
    deliver_backlog_bytes: int = _env(
        4096 * MEBIBYTE, "DELIVER_BACKLOG_BYTES", help="Undelivered output above which admission closes.", ge=1
    )
    timeout_s: float | None = _env(
        None,
        "JOB_TIMEOUT_S",
        help="Longest execution of one job; unset = no limit. A request's own limit wins, but with a tenant's key or "
        "on the public listener it can only be less.",
        gt=0,
    )
    max_queue_time_s: float | None = _env(
        None, "MAX_QUEUE_TIME_S", help="Longest predicted wait on the API listener; unset = no limit.", gt=0
    )
    vast_max_queue_time_s: float = _env(
        30.0, "VAST_MAX_QUEUE_TIME_S", help="Longest predicted wait in the Vast envelope; over it 429.", gt=0
    )
    disconnect_grace_s: float = _env(
        10.0, "DISCONNECT_GRACE_S", help="A Vast job with a request_idx outlives its connection so long.", ge=0
    )
    result_ttl_s: float = _env(21600.0, "API_CACHE_TTL", "RESULT_TTL_S", help="How long a result is kept.", gt=0)
    max_results: int = _env(10_000, "MAX_RESULTS", help="Most results kept; the oldest go first.", ge=1)
    results_max_bytes: int = _env(
        1024 * MEBIBYTE, "RESULTS_MAX_BYTES", help="Most bytes of results kept; the oldest go first.", ge=MEBIBYTE
    )
    idempotency_ttl_s: float = _env(
        86400.0, "IDEMPOTENCY_TTL_S", help="An Idempotency-Key is remembered so long, its result with it.", gt=0
    )
    store: Literal["sqlite", "memory"] = _env(
        "sqlite", "JOB_STORE", help="sqlite = jobs survive the worker; memory = they do not."
    )
    state_dir: Path | None = _env(
        None, "STATE_DIR", help="Folder of the job store and its key, on a local disk; <workspace>/state when unset."
    )
    drain_keeps: Flag | None = _env(
        None,
        "DRAIN_KEEPS_JOBS",
        help="false = jobs that a stop leaves over fail, and their webhooks are told; true = they wait for the next "
        "start. By default true, but on SaladCloud, where the disk goes too, only with STATE_DIR.",
    )
    max_queue_bytes: int = _env(
        512 * MEBIBYTE, "MAX_QUEUE_BYTES", help="Most bytes of requests accepted and not finished.", ge=1024
    )
    cost_model: Literal["estimate", "constant"] = _env(
        "estimate",
        "COST_MODEL",
        help="Workload of jobs outside Vast's envelope: estimated from the workflow, or JOB_WORKLOAD for each.",
    )
    include_response: Flag = _env(
        True, "INCLUDE_COMFYUI_RESPONSE", help="false = comfyui_response is empty unless a header asks for it."
    )
    workload_units: float = _env(100.0, "JOB_WORKLOAD", help="Workload of a job in Vast's envelope, constant.", gt=0)
    modifiers_path: Path | None = _env(
        None, "MODIFIERS_PATH", help="Folder of further workflow templates (*.json) that requests name as modifier."
    )


class StorageSettings(EnvironmentSettings):
    """Files that callers bring: what may be fetched, how much of it."""

    input_urls: Literal["loaders", "any"] = _env(
        "loaders", "INPUT_URLS", help="Which strings are fetched: fields that loader nodes read, or any URL."
    )
    input_max_bytes: int = _env(512 * MEBIBYTE, "INPUT_MAX_BYTES", help="Largest fetched input.", ge=1)
    input_timeout_s: float = _env(120.0, "INPUT_TIMEOUT_S", help="Longest fetch of one input.", gt=0)
    input_redirects: int = _env(5, "INPUT_MAX_REDIRECTS", help="Redirects followed, each one checked.", ge=0, le=20)
    input_cache_bytes: int = _env(
        10240 * MEBIBYTE, "INPUT_CACHE_BYTES", help="Fetched inputs kept; the least recently used go first.", ge=0
    )
    input_cache_dir: Path | None = _env(
        None,
        "INPUT_CACHE_DIR",
        "CACHE_DIR",
        help="Fetched inputs are kept in a folder pyworker below it; in <workspace>/inputs when unset.",
    )
    allow_hosts: Listed = _env(
        (), "FETCH_ALLOW_HOSTS", help="Hosts or networks (CIDR) that may be reached although they are private."
    )
    http_proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] | None = _env(
        None,
        "http_proxy",
        "HTTP_PROXY",
        help="Proxy for what is fetched, uploaded and told outside; never for ComfyUI, loopback and metadata services. "
        "It resolves names itself, so it must not reach private networks for strangers.",
    )
    https_proxy: Annotated[SecretStr, AfterValidator(_proxy_url)] | None = _env(
        None, "https_proxy", "HTTPS_PROXY", help="The same for https URLs; HTTP_PROXY when unset."
    )
    no_proxy: Listed = _env(
        (), "no_proxy", "NO_PROXY", help="Hosts, domains, addresses and networks reached without proxy; * = all."
    )


class DeliverySettings(EnvironmentSettings):
    """S3, inlining, webhooks."""

    s3_access_key_id: SecretStr | None = _env(None, "S3_ACCESS_KEY_ID", help="Operator's key id.")
    s3_secret_access_key: SecretStr | None = _env(None, "S3_SECRET_ACCESS_KEY", help="Operator's secret key.")
    s3_session_token: SecretStr | None = _env(None, "S3_SESSION_TOKEN", help="Operator's session token.")
    s3_bucket_name: str | None = _env(None, "S3_BUCKET_NAME", help="Bucket for outputs.")
    s3_endpoint_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "S3_ENDPOINT_URL", help="Endpoint of an S3-compatible server."
    )
    s3_region: str | None = _env(None, "S3_REGION", help="Region.")
    s3_addressing: Literal["auto", "path", "virtual"] = _env(
        "auto", "S3_ADDRESSING_STYLE", help="Bucket in the path or in the host name; auto = path for own endpoints."
    )
    s3_checksums: Literal["when_required", "when_supported"] = _env(
        "when_required", "S3_CHECKSUM_MODE", help="boto3's checksum mode; when_required suits MinIO, R2, GCS."
    )
    s3_prefix: str = _env("", "S3_KEY_PREFIX", help="Put before every key.")
    s3_public_base_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "S3_PUBLIC_BASE_URL", help="Base of plain URLs for a public bucket (a CDN's), instead of presigned ones."
    )
    s3_connect_timeout_s: float = _env(60.0, "S3_CONNECT_TIMEOUT", help="Connect time-out, seconds.", gt=0)
    s3_read_timeout_s: float = _env(
        60.0, "S3_READ_TIMEOUT", help="An S3 server that is silent so long while it takes a file has failed.", gt=0
    )
    s3_connect_attempts: int = _env(3, "S3_CONNECT_ATTEMPTS", help="Attempts of one call.", ge=1)
    s3_url_expires_s: int = _env(
        604800, "S3_URL_EXPIRES_S", help="Life of a presigned URL; S3 allows 7 days at most.", ge=1, le=604800
    )
    s3_allow_buckets: Listed = _env(
        (), "S3_ALLOW_BUCKETS", help="Buckets that a request may name without keys of its own."
    )
    base64_max_bytes: int = _env(
        10485760,
        "OUTPUT_BASE64_MAX_BYTES",
        help="Largest file that is inlined as base64; Salad's jobs know the limit of a job alone.",
        ge=0,
    )
    base64_total_bytes: int = _env(
        256 * MEBIBYTE,
        "OUTPUT_BASE64_TOTAL_BYTES",
        help="Most that one job inlines as base64 in all.",
        ge=0,
    )
    webhook_url: Annotated[str, AfterValidator(_hook_url)] | None = _env(None, "WEBHOOK_URL", help="Default webhook.")
    webhook_secret: SecretStr | None = _env(None, "WEBHOOK_SECRET", help="Signs the default webhook.")
    webhook_timeout_s: float = _env(30.0, "WEBHOOK_TIMEOUT", help="One webhook attempt, seconds.", gt=0)
    webhook_attempts: int = _env(
        3, "WEBHOOK_ATTEMPTS", help="Attempts of one webhook in the API wrapper's scheme.", ge=1
    )
    webhook_scheme: Literal["wrapper", "standard"] = _env(
        "wrapper", "WEBHOOK_SCHEME", help="Signature and schedule of the default webhook: the wrapper's, or standard."
    )
    webhook_events: Listed = _env(
        (),
        "WEBHOOK_EVENTS",
        help="What the default webhook is told: every outcome when unset; started can be asked for.",
    )
    salad_webhook_attempts: int = _env(
        3, "PROMPT_WEBHOOK_RETRIES", help="Attempts of one webhook in Salad's schemes, in all; 0 = none is sent.", ge=0
    )
    salad_webhook_secret: SecretStr | None = _env(
        None, "SALAD_WEBHOOK_SECRET", help="Signs webhook_v2 of Salad's API; WEBHOOK_SECRET when unset. Base64."
    )
    webhook_dead_ttl_s: float = _env(
        604800.0, "WEBHOOK_DEAD_TTL_S", help="Undeliverable webhooks are shown at /webhooks/dead so long.", gt=0
    )
    convert_workers: int = _env(2, "CONVERT_WORKERS", help="Pictures converted at the same time.", ge=1)
    convert_max_pixels: int = _env(
        268_435_456, "CONVERT_MAX_PIXELS", help="Largest picture (width x height x frames) that is converted.", ge=1
    )


class FleetSettings(EnvironmentSettings):
    """The autoscaler: who we are, whom we report to, whom we believe."""

    container_id: int | None = _env(None, "CONTAINER_ID", help="Instance id in reports.")
    report_addr: Annotated[Listed, AfterValidator(_base_urls)] = _env(
        (), "REPORT_ADDR", help="Autoscaler addresses, comma list, tried in order."
    )
    master_token: SecretStr | None = _env(None, "MASTER_TOKEN", help="Goes into reports; opens /pyworker/update.")
    public_ipaddr: str | None = _env(None, "PUBLIC_IPADDR", help="Address that callers use.")
    external_port: int | None = _env(
        None, "WORKER_EXTERNAL_PORT", help="Mapped public port; VAST_TCP_PORT_<WORKER_PORT> when unset.", ge=1, le=65535
    )
    unsecured: Flag = _env(False, "UNSECURED", help="true = signatures are not checked.")
    signature_forms: Listed = _env(("D", "C"), "SIGNATURE_FORMS", help="Accepted signature forms, of A, B, C, D.")
    check_url: Flag = _env(True, "SIGNATURE_CHECK_URL", help="A signature must be over our own URL.")
    url_aliases: Listed = _env((), "WORKER_URL_ALIASES", help="Further URLs that are ours (a proxy's).")
    tickets_required: Flag = _env(
        False,
        "TICKETS_REQUIRED",
        help="true = new work needs a ticket of our own router (expiring, good once); a signature alone is not enough.",
    )
    max_sessions: int = _env(10, "MAX_SESSIONS", help="Most open sessions; 0 = unlimited.", ge=0)
    force_update_path: Path = _env(Path("/.force_update"), "FORCE_UPDATE_PATH", help="Written by /pyworker/update.")
    report_interval_s: float = _env(1.0, "REPORT_INTERVAL_S", help="Shortest time between two reports.", gt=0)
    benchmark_retry_s: float = _env(
        60.0, "BENCHMARK_RETRY_S", help="Pause before a boot benchmark that failed is tried again (serverless).", gt=0
    )
    report_idle_s: float = _env(10.0, "REPORT_IDLE_S", help="A report is sent at least so often.", gt=0)


class RunPodSettings(EnvironmentSettings):
    """RunPod: its worker-comfyui's names for what we do, and what it is to run inside RunPod's serverless."""

    bucket_endpoint_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None,
        "BUCKET_ENDPOINT_URL",
        help="Where outputs of RunPod jobs go while S3_BUCKET_NAME is unset: an S3 endpoint, with the bucket in its "
        "host name or path, or else in BUCKET_NAME.",
    )
    bucket_access_key_id: SecretStr | None = _env(None, "BUCKET_ACCESS_KEY_ID", help="Key id for it.")
    bucket_secret_access_key: SecretStr | None = _env(None, "BUCKET_SECRET_ACCESS_KEY", help="Secret key for it.")
    bucket_name: str | None = _env(None, "BUCKET_NAME", help="Bucket, where BUCKET_ENDPOINT_URL names none.")
    bucket_region: str | None = _env(
        None, "BUCKET_REGION", help="Region, where BUCKET_ENDPOINT_URL does not tell the right one."
    )
    bucket_prefix: str = _env("", "BUCKET_PREFIX", help="Put before <job id>/<file name>.")
    bucket_layout: Literal["named", "month"] = _env(
        "named",
        "BUCKET_LAYOUT",
        help="month = as worker-comfyui: this month (MM-YY) is the bucket, or the first folder where a bucket is "
        "named.",
    )
    output: Literal["images", "legacy"] = _env(
        "images", "RUNPOD_OUTPUT", help="legacy = the answer of worker-comfyui before 5.0, one picture in message."
    )
    webhook_input: Flag = _env(
        False, "RUNPOD_WEBHOOK_INPUT", help="true = webhooks carry the job's input again, pictures left out."
    )
    stream_wait_s: float = _env(
        5.0, "RUNPOD_STREAM_WAIT_S", help="How long /stream without ?wait= waits for news.", gt=0, le=9
    )
    stream_interval_s: float = _env(
        0.5, "RUNPOD_STREAM_INTERVAL_S", help="Shortest time between two pieces of one job's progress.", ge=0
    )
    max_result_bytes: int = _env(
        20_000_000,
        "RUNPOD_MAX_RESULT_BYTES",
        help="Largest answer that is posted to RunPod's queue, which refuses larger ones.",
        ge=1,
    )
    refresh_worker: Flag = _env(
        False,
        "REFRESH_WORKER",
        help="true = a clean state after each job: RunPod restarts the worker; elsewhere ComfyUI is restarted.",
    )
    serve_locally: Flag = _env(
        False, "SERVE_API_LOCALLY", help="true = the API listener is on port 8000 unless API_PORT says otherwise."
    )
    job_url: str | None = _env(
        None, "RUNPOD_WEBHOOK_GET_JOB", help="Set by RunPod in queue mode: the worker takes its jobs from there."
    )
    job_key: SecretStr | None = _env(None, "RUNPOD_AI_API_KEY", help="Set by RunPod: opens its queue.")
    pod_id: str | None = _env(None, "RUNPOD_POD_ID", help="Set by RunPod: workerId in answers.")
    endpoint_id: str | None = _env(None, "RUNPOD_ENDPOINT_ID", help="Set by RunPod: this worker's endpoint.")
    concurrency: int = _env(
        2,
        "RUNPOD_CONCURRENCY",
        help="Jobs taken from RunPod's queue at once: one runs, one is prepared. 3 for jobs of less than a second.",
        ge=1,
    )
    sdk_log_level: str = _env(
        "INFO",
        "RUNPOD_LOG_LEVEL",
        "RUNPOD_DEBUG_LEVEL",
        help="Least level that RunPod's SDK logs in queue mode; DEBUG writes results into the log.",
    )
    volume_path: Path = _env(
        Path("/runpod-volume"), "RUNPOD_VOLUME_PATH", help="Network volume; its models/ folders are used where it is."
    )
    volume_debug: Flag = _env(
        False, "NETWORK_VOLUME_DEBUG", help="true = log at start what was found on the network volume, file by file."
    )


SALAD_CLOUD = (
    "organization_name",
    "organization_id",
    "project_name",
    "project_id",
    "container_group_name",
    "container_group_id",
    "instance_id",
    "machine_id",
)
"""What SaladCloud tells a container of itself."""


class SaladSettings(EnvironmentSettings):
    """Salad's comfyui-api: its names for what we do, and what only it has."""

    workflow_dir: Path | None = _env(
        None,
        "WORKFLOW_DIR",
        help="Folder of workflow endpoints (*.py, and *.json with a YAML beside it); /workflows, if it is there, when "
        "unset.",
    )
    markdown_descriptions: Flag = _env(
        True, "MARKDOWN_SCHEMA_DESCRIPTIONS", help="true = tables of the inputs of workflow endpoints on the docs page."
    )
    max_queue_depth: int = _env(
        0,
        "MAX_QUEUE_DEPTH",
        help="/ready is 503, and so are Salad's jobs, from so many waiting jobs on; 0 = never.",
        ge=0,
    )
    prepend_filenames: Flag = _env(
        True, "PREPEND_FILENAMES", help="false = files are named by the job's id alone, not <id>_<prefix>."
    )
    unconfigured_uploads: Literal["refuse", "ignore"] = _env(
        "refuse",
        "SALAD_UNCONFIGURED_UPLOADS",
        help="ignore = as comfyui-api: an upload block whose storage is not configured is passed over.",
    )
    webhook_uploads: Flag = _env(
        False,
        "SALAD_WEBHOOK_UPLOADS",
        help="true = an upload block counts beside webhook too, which is told the files' URLs; in comfyui-api it does "
        "not.",
    )
    system_webhook_url: str | None = _env(None, "SYSTEM_WEBHOOK_URL", help="Gets events of ComfyUI and the storage.")
    system_webhook_events: Listed = _env(
        (), "SYSTEM_WEBHOOK_EVENTS", help="Which events: names, or all; nothing is sent when unset."
    )
    system_metadata: Annotated[Mapping[str, str], BeforeValidator(_named_after("SYSTEM_META_"))] = _env(
        {},
        "SYSTEM_META_*",
        help="SYSTEM_META_<name>: goes with each of these events, as <name>.",
        validate_default=True,
    )
    aws_region: str | None = _env(
        None, "AWS_REGION", "AWS_DEFAULT_REGION", help="Region for s3 blocks and s3:// URLs of Salad's; turns them on."
    )
    aws_access_key_id: SecretStr | None = _env(None, "AWS_ACCESS_KEY_ID", help="Key id for them.")
    aws_secret_access_key: SecretStr | None = _env(None, "AWS_SECRET_ACCESS_KEY", help="Secret key for them.")
    aws_session_token: SecretStr | None = _env(None, "AWS_SESSION_TOKEN", help="Session token for them.")
    aws_endpoint_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "AWS_ENDPOINT_URL", help="Endpoint of an S3-compatible server for them."
    )
    azure_connection_string: SecretStr | None = _env(
        None, "AZURE_STORAGE_CONNECTION_STRING", help="Azure account for uploads and downloads; wins over the parts."
    )
    azure_account: str | None = _env(None, "AZURE_STORAGE_ACCOUNT", help="Name of the Azure account.")
    azure_key: SecretStr | None = _env(None, "AZURE_STORAGE_KEY", help="Key of the Azure account.")
    azure_sas_token: SecretStr | None = _env(None, "AZURE_STORAGE_SAS_TOKEN", help="Or a SAS token for it.")
    hf_token: SecretStr | None = _env(None, "HF_TOKEN", help="Hugging Face token for uploads and downloads.")
    hf_endpoint: Annotated[str, AfterValidator(_base_url)] = _env(
        "https://huggingface.co", "HF_ENDPOINT", help="Where Hugging Face is."
    )
    http_header_name: str | None = _env(
        None, "HTTP_AUTH_HEADER_NAME", help="Header that goes with http uploads and with downloads of Salad's jobs."
    )
    http_header_value: SecretStr | None = _env(None, "HTTP_AUTH_HEADER_VALUE", help="Its value; both are needed.")
    http_header_hosts: Listed = _env(
        (),
        "HTTP_AUTH_HEADER_HOSTS",
        help="Hosts (or host:port) that get this header, and *.domain; URLs are callers'. * = all, as comfyui-api; "
        "none when unset.",
    )
    models_max_bytes: int = _env(
        0,
        "MODELS_CACHE_BYTES",
        help="Downloaded models kept; the least recently used go first. 0 = all are kept.",
        ge=0,
    )
    lru_cache_size_gb: float = _env(0.0, "LRU_CACHE_SIZE_GB", help="The same in gigabytes (2^30).", ge=0)
    models_dir: Path | None = _env(None, "MODEL_DIR", help="Folder of ComfyUI's models; <ComfyUI>/models when unset.")
    download_model_max_bytes: int = _env(
        64 * 1024 * MEBIBYTE, "MODEL_MAX_BYTES", help="Largest model that a request may have downloaded.", ge=1
    )
    model_timeout_s: float = _env(7200.0, "MODEL_TIMEOUT_S", help="Longest download of one model.", gt=0)
    model_urls: Who = _env(
        "known",
        "MODEL_URLS",
        help="Whose jobs may name models by URL: off = nobody's, operator = those without a tenant, known = those of "
        "tenants too, any = also signed requests of the public listener.",
    )
    model_pickles: Who = _env(
        "operator",
        "MODEL_PICKLES",
        help="Whose jobs may bring formats that can hold code (.ckpt, .pt, .pth, .bin, .pkl), by the same words; "
        "everybody's may be .safetensors and .gguf.",
    )
    metadata_url: str = _env(
        "http://169.254.169.254", "SALAD_METADATA_URL", help="SaladCloud's metadata service, for the deletion cost."
    )
    machine_id: str | None = _env(None, "SALAD_MACHINE_ID", help="Set by SaladCloud.")
    container_group_id: str | None = _env(None, "SALAD_CONTAINER_GROUP_ID", help="Set by SaladCloud.")
    container_group_name: str | None = _env(None, "SALAD_CONTAINER_GROUP_NAME", help="Set by SaladCloud.")
    organization_name: str | None = _env(None, "SALAD_ORGANIZATION_NAME", help="Set by SaladCloud.")
    organization_id: str | None = _env(None, "SALAD_ORGANIZATION_ID", help="Set by SaladCloud.")
    project_name: str | None = _env(None, "SALAD_PROJECT_NAME", help="Set by SaladCloud.")
    project_id: str | None = _env(None, "SALAD_PROJECT_ID", help="Set by SaladCloud.")
    instance_id: str | None = _env(None, "SALAD_INSTANCE_ID", help="Set by SaladCloud.")

    @property
    def cloud(self) -> dict[str, str]:
        """What SaladCloud says of this instance, as its users know it (``salad_machine_id``); empty elsewhere."""
        told = {f"salad_{name}": getattr(self, name) for name in SALAD_CLOUD}
        return {name: value for name, value in told.items() if value}

    @property
    def workflows_folder(self) -> Path | None:
        """Where workflow endpoints are. Looks at the disk."""
        usual = Path("/workflows")
        return self.workflow_dir or (usual if usual.is_dir() else None)

    @property
    def models_quota_bytes(self) -> int:
        """What downloaded models may take together; 0 = no limit."""
        return self.models_max_bytes or int(self.lru_cache_size_gb * 1024 * MEBIBYTE)


class UpkeepSettings(EnvironmentSettings):
    """Clean-up of outputs, inputs that we fetched, temp files."""

    max_age_s: float = _env(86400.0, "CLEANUP_MAX_AGE_S", help="Files older than this may go.", ge=0)
    min_free_bytes: int = _env(
        512 * MEBIBYTE, "CLEANUP_MIN_FREE_BYTES", help="Clean-up acts when less than this is free.", ge=0
    )
    schedule: str = _env(
        "*/10 * * * *", "CLEANUP_SCHEDULE", help="When the worker looks, as a cron expression; the cron entry is apart."
    )


class TelemetrySettings(EnvironmentSettings):
    """Logs."""

    log_level: Annotated[str, AfterValidator(_level)] = _env(
        "INFO", "LOG_LEVEL", "VAST_LOG_LEVEL", help="Least level that is logged."
    )
    log_format: Literal["text", "json"] = _env("text", "LOG_FORMAT", help="text for people, json for machines.")
    otlp_endpoint: str | None = _env(
        None,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        help="Collector for traces (OTLP over HTTP); needs the packages of requirements-traces.txt.",
    )
    service_name: str = _env("comfyui-pyworker", "OTEL_SERVICE_NAME", help="Name of this service in traces.")


class Settings(EnvironmentSettings):
    """The whole tree. Constructors take the branch that they need, never the tree."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    delivery: DeliverySettings = Field(default_factory=DeliverySettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    runpod: RunPodSettings = Field(default_factory=RunPodSettings)
    salad: SaladSettings = Field(default_factory=SaladSettings)
    upkeep: UpkeepSettings = Field(default_factory=UpkeepSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    @property
    def serverless(self) -> bool:
        """Reports, signatures and TLS by default; otherwise standalone on loopback."""
        return self.server.serverless_flag or bool(self.fleet.report_addr)

    @property
    def use_ssl(self) -> bool:
        return self.serverless if self.server.use_ssl is None else self.server.use_ssl

    @property
    def worker_host(self) -> str:
        return self.server.worker_host or ("0.0.0.0" if self.serverless else "127.0.0.1")  # noqa: S104

    @property
    def keeps_jobs(self) -> bool:
        """Whether jobs that a stop leaves over wait for the worker's next start."""
        if self.jobs.drain_keeps is not None:
            return self.jobs.drain_keeps
        return self.jobs.state_dir is not None or not self.salad.cloud

    @property
    def inputs_folder(self) -> Path:
        """Where fetched inputs lie: a folder of our own, since the clean-up empties it."""
        cache = self.storage.input_cache_dir
        return cache.expanduser().resolve() / "pyworker" if cache else self.engine.workspace.resolve() / "inputs"

    @property
    def worker_http_port(self) -> int:
        port = self.server.worker_http_port
        return port if port is not None else (self.server.worker_port + 1 if self.server.worker_port else 0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.serverless and self.fleet.container_id is None:
            raise ValueError("CONTAINER_ID is not set; serverless mode needs the instance id, a whole number")
        return self


_WITH_SECRETS = (AccessSettings, DeliverySettings, EngineSettings, FleetSettings, RunPodSettings, SaladSettings)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a program that we start: ours with ``extra`` on top, without the worker's secrets.

    ComfyUI runs code of custom nodes; keys of the operator's storage and fleet are none of their business.
    """
    secrets = {name for branch in _WITH_SECRETS for name in _secret_names(branch)}
    return {name: value for name, value in os.environ.items() if name not in secrets} | dict(extra)


def _secret_names(branch: type[EnvironmentSettings]) -> list[str]:
    found: list[str] = []
    for field in branch.model_fields.values():
        if SecretStr in get_args(field.annotation) and isinstance(field.validation_alias, AliasChoices):
            found += [str(choice) for choice in field.validation_alias.choices]
    return found


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment once. Raises SettingsError with one line per bad variable."""
    previous: dict[str, str] | None = None
    if environ is not None:
        previous = dict(os.environ)
        os.environ.clear()
        os.environ.update(environ)
    try:
        return _load()
    finally:
        if previous is not None:
            os.environ.clear()
            os.environ.update(previous)


def _load() -> Settings:
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item) for item in error.errors())) from None
    return _in_our_units(_refreshed(_with_mapped_port(settings)))


def _in_our_units(settings: Settings) -> Settings:
    """What comfyui-api has in other units than ours; a variable of ours that is set wins."""
    server, engine = settings.server, settings.engine
    if server.max_body_size_mb is not None and "max_body_bytes" not in server.model_fields_set:
        server = server.model_copy(update={"max_body_bytes": server.max_body_size_mb * MEBIBYTE})
    told: dict[str, float] = {}
    interval_s = engine.startup_interval_s
    if interval_s is not None and "probe_interval_ms" not in engine.model_fields_set:
        told["probe_interval_ms"] = interval_s * 1000.0
    if engine.startup_tries is not None and "startup_timeout_s" not in engine.model_fields_set:
        told["startup_timeout_s"] = float(engine.startup_tries * (interval_s or 1))
    return settings.model_copy(update={"server": server, "engine": engine.model_copy(update=told)})


def _refreshed(settings: Settings) -> Settings:
    """``REFRESH_WORKER`` outside RunPod's queue: a ComfyUI restarted after each job is the clean state it asks for."""
    if not settings.runpod.refresh_worker or settings.runpod.job_url or settings.engine.recycle_after_jobs is not None:
        return settings
    engine = settings.engine.model_copy(update={"recycle_after_jobs": 1})
    return settings.model_copy(update={"engine": engine})


def _with_mapped_port(settings: Settings) -> Settings:
    """Vast names the mapped port after the listener: ``VAST_TCP_PORT_3000``."""
    name = f"VAST_TCP_PORT_{settings.server.worker_port}"
    value = os.environ.get(name)
    if settings.fleet.external_port is not None or not value:
        return settings
    if not value.isdigit():
        raise SettingsError(f"{name}={value!r}: expected a port number")
    fleet = settings.fleet.model_copy(update={"external_port": int(value)})
    return settings.model_copy(update={"fleet": fleet})


def _explain(item: Any) -> str:
    name = _as_it_was_set(str(item["loc"][-1])) if item["loc"] else ""
    secret = any(
        part in name.upper() for part in ("SECRET", "TOKEN", "KEY", "PROXY", "CONNECTION", "HEADER_VALUE", "HOOK_URL")
    )
    value = "***" if secret else repr(item.get("input"))
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}={value}: {message}" if name else message


def _as_it_was_set(name: str) -> str:
    """The name that the operator used; an error names the first of a setting's names."""
    for branch in Settings.model_fields.values():
        for field in getattr(branch.annotation, "model_fields", {}).values():
            alias = field.validation_alias
            names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
            if names[:1] == [name]:
                return next((choice for choice in names if os.environ.get(choice)), name)
    return name
