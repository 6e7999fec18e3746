"""What the operator says of endpoints: a YAML file, or JSON in ``ROUTER_ENDPOINTS``.

    endpoints:
      - name: images
        id: 1                           # its number for the SDK and CLI; by position when absent
        api_key: "sha256:<64 hex>"      # or the key itself; made and kept when absent
        tokens: ["<MASTER_TOKEN>"]      # of its workers; ROUTER_WORKER_TOKENS when absent
        policy: hybrid                  # or proportional, least-work, power-of-two
        kappa: 0                        # a dollar saved is worth so many seconds of delay
        groups:
          - {name: rtx4090, id: 11, price: 0.40, gpu_name: RTX 4090, containers: [123, 124]}
          - {name: here, perf: 100, boot_time: 60, provider: {kind: local, places: 2}}
        tenants:
          - {name: studio, api_keys: ["..."], weight: 2, max_waiting: 100, max_running: 4, priority: high}

Scaling fields have Vast's names.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from lib.serving.keyring import LEAST_KEY_CHARACTERS, digest
from lib.settings import SettingsError
from router.fairness import Limits
from router.model import Policy, Priority
from router.scaling.provider_settings import ProviderSettings
from router.settings import RouterSettings

_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _strong(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if _HASH.fullmatch(text) is None and (text.startswith("sha256:") or len(text) < LEAST_KEY_CHARACTERS):
        raise ValueError(f"expected a random key of at least {LEAST_KEY_CHARACTERS} characters, or sha256:<64 hex>")
    return value


Key = Annotated[SecretStr, AfterValidator(_strong)]
"""A secret as it is, or only its hash."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TenantSettings(_Part):
    """One of an endpoint's users, with a share and caps (none when absent). ``max_running_work`` is in units."""

    name: Name
    api_keys: tuple[Key, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    max_waiting: int | None = Field(None, ge=0)
    max_running: int | None = Field(None, ge=1)
    max_running_work: float | None = Field(None, gt=0)
    priority: Priority = Priority.HIGH

    @property
    def limits(self) -> Limits:
        """The same for the queue."""
        return Limits(
            weight=self.weight, waiting=self.max_waiting, held=self.max_running, held_work=self.max_running_work
        )


class GroupSettings(_Part):
    """Workers of one kind. ``price`` is dollars per hour. ``perf`` (units per second) and ``boot_time`` (seconds) are
    what is expected of a worker before one was seen; ``provider`` says how such a worker is started
    (``router.scaling.provider_settings``; null: by somebody else)."""

    name: Name
    id: int = Field(0, ge=0)
    price: Share = 0.0
    gpu_name: str = ""
    vram_gib: float | None = Field(None, gt=0)
    containers: tuple[int, ...] = ()
    max_workers: int | None = Field(None, ge=0)
    perf: float = Field(100.0, gt=0, allow_inf_nan=False)
    boot_time: float = Field(60.0, gt=0, allow_inf_nan=False)
    provider: Annotated[ProviderSettings | None, BeforeValidator(lambda value: value or None)] = None


class EndpointSettings(_Part):
    """A named pool of workers: who may use it, who may serve it, how it is routed and scaled.

    Times are seconds. ``worker_queue_time`` is the queue time over which a stock worker refuses (the ``max_queue_time``
    of its handler; null: it never does).
    ``lead_time``: a worker is handed its next request so many seconds before it is expected to be free.
    """

    name: Name
    id: int = Field(0, ge=0)
    api_key: Key | None = None
    tokens: tuple[Key, ...] = ()
    policy: Policy = Policy.HYBRID
    kappa: Share = 0.0
    worker_queue_time: float | None = Field(10.0, ge=0)
    lead_time: Share = 0.3
    swap_time: float = Field(5.0, ge=0, allow_inf_nan=False)
    max_waiting: int = Field(10_000, ge=1)
    groups: tuple[GroupSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()
    max_queue_time: float = Field(30.0, ge=0, allow_inf_nan=False)
    target_queue_time: float = Field(10.0, gt=0, allow_inf_nan=False)
    target_util: float = Field(0.9, gt=0, le=1)
    cold_mult: float = Field(3.0, ge=1, allow_inf_nan=False)
    min_load: Share = 0.0
    min_cold_load: Share = 0.0
    cold_workers: int = Field(0, ge=0)
    max_workers: int = Field(16, ge=0)
    inactivity_timeout: float | None = None

    @model_validator(mode="after")
    def _distinct(self) -> "EndpointSettings":
        for what, names in (
            ("group", [one.name for one in self.groups]),
            ("tenant", [one.name for one in self.tenants]),
            ("container", [str(one) for group in self.groups for one in group.containers]),
        ):
            if (doubled := _doubled(names)) is not None:
                raise ValueError(f"two entries for the {what} {doubled}")
        return self


class _File(_Part):
    endpoints: tuple[EndpointSettings, ...] = Field(min_length=1)


def hashed(key: SecretStr) -> bytes:
    """What is compared: the hash that was given, or that of the key."""
    text = key.get_secret_value()
    found = _HASH.fullmatch(text)
    return bytes.fromhex(found[1]) if found else digest(text)


def listed(value: SecretStr | None, *, variable: str) -> tuple[SecretStr, ...]:
    """Read a comma list of keys. Raises SettingsError, without the keys."""
    texts = [part.strip() for part in (value.get_secret_value() if value else "").split(",")]
    try:
        return tuple(_strong(SecretStr(text)) for text in texts if text)
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None


def load_endpoints(settings: RouterSettings, *, taken: AbstractSet[int] = frozenset()) -> tuple[EndpointSettings, ...]:
    """Read what the operator configured, numbers filled in that are not ``taken``; none: an empty tuple. Blocks.
    Raises SettingsError."""
    try:
        if settings.endpoints_file is not None:
            variable = f"ROUTER_ENDPOINTS_FILE={settings.endpoints_file}"
            return _numbered(_parse(yaml.safe_load(settings.endpoints_file.read_text(encoding="utf-8"))), taken)
        if settings.endpoints is not None:
            variable = "ROUTER_ENDPOINTS"
            return _numbered(_parse(json.loads(settings.endpoints.get_secret_value())), taken)
    except OSError as error:
        raise SettingsError(f"{variable}: {error.strerror or 'unreadable'}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise SettingsError(f"{variable}: it is not YAML{place}") from None
    except ValidationError as error:
        raise SettingsError("\n".join(f"{variable}: {text}" for text in _explanations(error))) from None
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None
    return ()


def _parse(data: Any) -> tuple[EndpointSettings, ...]:
    return _File.model_validate({"endpoints": data} if isinstance(data, list) else data).endpoints


def _numbered(endpoints: tuple[EndpointSettings, ...], made: AbstractSet[int]) -> tuple[EndpointSettings, ...]:
    """Give numbers to endpoints and groups that have none. Raises ValueError for two of one name or number."""
    taken = {*made, *(one.id for one in endpoints)}
    free = iter(range(1, len(taken) + len(endpoints) + 1))
    numbered = [one if one.id else one.model_copy(update={"id": _next(free, taken)}) for one in endpoints]
    for what, values in (("name", [one.name for one in numbered]), ("id", [str(one.id) for one in numbered])):
        if (doubled := _doubled(values)) is not None:
            raise ValueError(f"two endpoints have the {what} {doubled}")
    return tuple(one.model_copy(update={"groups": _numbered_groups(one)}) for one in numbered)


def _numbered_groups(endpoint: EndpointSettings) -> tuple[GroupSettings, ...]:
    """Every endpoint has a group; one without a number gets the endpoint's, then a place behind it."""
    groups = endpoint.groups or (GroupSettings(name="default"),)
    return tuple(
        group if group.id else group.model_copy(update={"id": endpoint.id * 1000 + place})
        for place, group in enumerate(groups, start=1)
    )


def _next(free: Iterator[int], taken: set[int]) -> int:
    return next(number for number in free if number not in taken)


def _doubled(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _explanations(error: ValidationError) -> list[str]:
    """One for each wrong value; that a list lacks entries because they are wrong says nothing more."""
    items = error.errors(include_input=False, include_url=False, include_context=False)
    places = [".".join(str(part) for part in item["loc"]) for item in items]
    told = [
        (place, item["msg"].removeprefix("Value error, "))
        for place, item in zip(places, items, strict=True)
        if not any(other.startswith(f"{place}.") for other in places)
    ]
    return [f"{place}: {message}" if place else message for place, message in told]
