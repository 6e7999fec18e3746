"""Settings of the router's process: one frozen tree, read once from variables named ``ROUTER_*``.

What belongs to an endpoint (keys, tokens, policy, tenants, groups, prices) is in a file of its own:
``router.endpoint_settings``.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsConfigDict

from lib.settings import MEBIBYTE, EnvironmentSettings, Listed, SettingsError, child_environment

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STORES = ("sqlite", "redis", "rediss", "unix")


def _env(default: Any, name: str, *, about: str, **bounds: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name), description=about, **bounds)


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError("expected a base URL such as https://router.example.org")
    return value.rstrip("/")


def _store(value: SecretStr) -> SecretStr:
    """Secret, as it may have a password in it."""
    if value.get_secret_value().partition("://")[0] not in STORES:
        raise ValueError("expected sqlite://, sqlite:///path/to/file.db, redis://host:port/0 or rediss://...")
    return value


class RouterSettings(EnvironmentSettings):
    """Where the router listens, what it keeps where, how long it waits for whom."""

    model_config = SettingsConfigDict(allow_inf_nan=False)

    host: str = _env("127.0.0.1", "ROUTER_HOST", about="Address to listen on; :: = every one, of IPv4 too.")
    port: int = _env(8080, "ROUTER_PORT", about="Port to listen on; 0 = any free one.", ge=0, le=65535)
    public_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "ROUTER_PUBLIC_URL", about="Base URL by which workers and clients reach the router, where a proxy is."
    )
    tls_cert_path: Path | None = _env(None, "ROUTER_TLS_CERT", about="Certificate, PEM; with it the router speaks TLS.")
    tls_key_path: Path | None = _env(None, "ROUTER_TLS_KEY", about="Private key of the certificate, PEM.")
    worker_ca_path: Path | None = _env(
        None, "ROUTER_WORKER_CA", about="Authority that signs workers' certificates, PEM; not checked when unset."
    )
    allowed_hosts: Listed = _env(
        (), "ROUTER_ALLOWED_HOSTS", about="Further host names that people use for the page (a proxy's); * = any."
    )
    max_body_bytes: int = _env(100 * MEBIBYTE, "ROUTER_MAX_BODY_BYTES", about="Largest request body.", ge=1024)

    state_dir: Path = _env(
        Path("var/router"), "ROUTER_STATE_DIR", about="Folder of keys, database and what was learned; a local disk."
    )
    store: Annotated[SecretStr, AfterValidator(_store)] = _env(
        SecretStr("sqlite://"),
        "ROUTER_STORE",
        about="sqlite:// = one router, a file in the state folder; redis://host:port/0 = several routers share it.",
    )
    state_key: SecretStr | None = _env(
        None,
        "ROUTER_STATE_KEY",
        about="Seals what is stored, 64 hex digits; routers that share a store share it. Made and kept when unset.",
    )
    replica: str = _env(
        "",
        "ROUTER_REPLICA",
        about="Name of this router among those that share a store; made at each start when unset.",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
    )
    signing_key_path: Path | None = _env(
        None,
        "ROUTER_SIGNING_KEY",
        about="RSA key that signs routes, PEM; routers of one fleet share it. <state>/signing_key.pem when unset.",
    )

    endpoints_file: Path | None = _env(None, "ROUTER_ENDPOINTS_FILE", about="YAML file that describes the endpoints.")
    endpoints: SecretStr | None = _env(None, "ROUTER_ENDPOINTS", about="The same as JSON, instead of a file.")
    account_keys: SecretStr | None = _env(
        None,
        "ROUTER_ACCOUNT_KEYS",
        about="Keys of the operator, comma list, each as it is or as sha256:<hex>; one is made when unset.",
    )
    worker_tokens: SecretStr | None = _env(
        None,
        "ROUTER_WORKER_TOKENS",
        about="MASTER_TOKENs of workers of any endpoint, comma list, or as sha256:<hex>; one is made when unset.",
    )
    open_workers: bool = _env(
        False, "ROUTER_OPEN_WORKERS", about="true = believe workers that show no token; for closed networks only."
    )
    open_page: bool | None = _env(
        None,
        "ROUTER_OPEN_PAGE",
        about="true = the page needs no key; by default only on loopback, where no ROUTER_PUBLIC_URL is set.",
    )

    route_wait_s: float = _env(
        8.0, "ROUTER_ROUTE_WAIT_S", about="How long /route/ holds a request before it answers WAITING.", ge=0, le=9
    )
    relay_wait_s: float = _env(
        600.0,
        "ROUTER_RELAY_WAIT_S",
        about="How long a relayed request is held for a worker, while its caller waits.",
        gt=0,
    )
    replay_timeout_s: float = _env(
        60.0, "ROUTER_REPLAY_TIMEOUT_S", about="Life of an idle request_idx whose caller named none.", gt=0
    )
    ticket_life_s: float = _env(300.0, "ROUTER_TICKET_LIFE_S", about="Life of a ticket for workers of ours.", gt=0)
    stale_s: float = _env(25.0, "ROUTER_STALE_S", about="A worker that is silent for longer gets no work.", gt=0)
    gone_s: float = _env(300.0, "ROUTER_GONE_S", about="A worker that is silent for longer is forgotten.", gt=0)
    probe_timeout_s: float = _env(
        3.0, "ROUTER_PROBE_TIMEOUT_S", about="A worker that we doubt has so long to answer.", gt=0
    )
    stop_timeout_s: float = _env(
        10.0, "ROUTER_STOP_TIMEOUT_S", about="Requests in hand have so long to end when the router stops.", ge=0
    )

    scaling_every_s: float = _env(
        5.0, "ROUTER_SCALING_EVERY_S", about="How often it is decided how many workers there should be.", gt=0
    )
    scaling_down_delay_s: float = _env(
        120.0, "ROUTER_SCALING_DOWN_DELAY_S", about="A worker is released when for so long it was not needed.", ge=0
    )
    scaling_start_timeout_s: float = _env(
        900.0, "ROUTER_SCALING_START_TIMEOUT_S", about="A started worker has so long to become ready.", gt=0
    )
    scaling_unhealthy_s: float = _env(
        120.0, "ROUTER_SCALING_UNHEALTHY_S", about="One that fails or is silent for so long is replaced.", gt=0
    )
    vast_key: SecretStr | None = _env(
        None, "ROUTER_SCALING_VAST_KEY", about="API key by which the provider vast rents and returns instances."
    )
    vast_url: Annotated[str, AfterValidator(_base_url)] | None = _env(
        None, "ROUTER_SCALING_VAST_URL", about="Vast's console; the package's own default when unset."
    )
    vast_python: str = _env(
        "", "ROUTER_SCALING_VAST_PYTHON", about="Python that has the package vastai; the router's own when unset."
    )

    result_ttl_s: float = _env(
        86_400.0,
        "ROUTER_RESULT_TTL_S",
        about="Jobs that were relayed, their results and idempotency keys are kept so long after their end.",
        gt=0,
    )
    max_result_bytes: int = _env(
        64 * MEBIBYTE,
        "ROUTER_MAX_RESULT_BYTES",
        about="Largest result of a relayed job that is kept; a larger one stays with its worker, so files should be "
        "links.",
        ge=65_536,
    )
    lease_s: float = _env(
        30.0, "ROUTER_LEASE_S", about="A router that is gone for so long loses its relayed jobs to others.", gt=0
    )
    patience_s: float = _env(
        10.0,
        "ROUTER_PATIENCE_S",
        about="A worker that was lost with a relayed job may be back with it for so long.",
        ge=0,
    )
    webhook_allow_hosts: Listed = _env(
        (),
        "ROUTER_WEBHOOK_ALLOW_HOSTS",
        about="Hosts or networks (CIDR) that the router's webhooks may reach although they are private.",
    )
    salad_webhook_secret: SecretStr | None = _env(
        None,
        "ROUTER_SALAD_WEBHOOK_SECRET",
        about="Signs what the router itself tells Salad's webhook_v2, as SALAD_WEBHOOK_SECRET does at workers. Base64.",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = _env(
        "INFO", "ROUTER_LOG_LEVEL", about="Least level that is logged."
    )
    log_format: Literal["text", "json"] = _env("text", "ROUTER_LOG_FORMAT", about="text for people, json for machines.")

    @property
    def shared(self) -> bool:
        """Whether several routers may use the store."""
        return self.store.get_secret_value().partition("://")[0] != "sqlite"

    @property
    def is_loopback(self) -> bool:
        """Whether it listens to this machine alone; a proxy of this machine may let others in."""
        return self.host in LOOPBACK

    @property
    def page_is_open(self) -> bool:
        """Whether everybody may look. A proxy's callers come from loopback, too."""
        return self.is_loopback and self.public_url is None if self.open_page is None else self.open_page

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_cert_path is None) is not (self.tls_key_path is None):
            raise ValueError("ROUTER_TLS_CERT and ROUTER_TLS_KEY belong together; only one of them is set")
        if self.endpoints_file is not None and self.endpoints is not None:
            raise ValueError("ROUTER_ENDPOINTS_FILE and ROUTER_ENDPOINTS are both set; one of them describes endpoints")
        if self.gone_s < self.stale_s:
            raise ValueError("ROUTER_GONE_S is below ROUTER_STALE_S")
        return self


def load_router_settings() -> RouterSettings:
    """Read the environment. Raises SettingsError with one line for each bad variable."""
    try:
        return RouterSettings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item) for item in error.errors())) from None


def unknown_variables() -> dict[str, str]:
    """Variables that are named like ours and are none, with the setting that may be meant ("" = no idea)."""
    known = [name for field in RouterSettings.model_fields.values() for name in _names(field)]
    found = (name for name in child_environment({}) if name.startswith("ROUTER_") and name not in known)
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), "") for name in sorted(found)}


def _names(field: FieldInfo) -> list[str]:
    aliases = field.validation_alias
    return [str(name) for name in aliases.choices] if isinstance(aliases, AliasChoices) else []


def _explain(item: Any) -> str:
    name = str(item["loc"][-1]) if item["loc"] else ""
    secret = name.endswith(("_STORE", "_KEYS", "_TOKENS", "_ENDPOINTS", "_STATE_KEY", "_VAST_KEY", "_SECRET"))
    value = "***" if secret else repr(item.get("input"))
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}={value}: {message}" if name else message
