"""Builds ``Endpoints`` at the start from settings and from what is kept in the state folder, and keeps what changes."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from lib.settings import SettingsError
from router.endpoint_settings import EndpointSettings, GroupSettings, hashed, listed, load_endpoints
from router.endpoints import Endpoint, Endpoints
from router.kept import Kept
from router.settings import RouterSettings

KEYS = "keys.json"
MADE = "endpoints.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What was made here, and so has to be said once to the operator; "" = configured, and so known."""

    account_key: str = field(repr=False)
    worker_token: str = field(repr=False)


class EndpointKeeping:
    """The endpoints with their files. Building and writing block: call them in a thread."""

    def __init__(self, settings: RouterSettings) -> None:
        """Raises: SettingsError."""
        self._keys = Kept(settings.state_dir / KEYS)
        self._made = Kept(settings.state_dir / MADE)
        made = tuple(self._from_api())
        configured = load_endpoints(settings, taken={endpoint.id for endpoint in made})
        accounts = listed(settings.account_keys, variable="ROUTER_ACCOUNT_KEYS")
        tokens = listed(settings.worker_tokens, variable="ROUTER_WORKER_TOKENS")
        self.secrets = Secrets(
            account_key="" if accounts else self._keys.made_once("account_key"),
            worker_token="" if tokens or settings.open_workers else self._keys.made_once("worker_token"),
        )
        own_accounts = [*accounts, *([SecretStr(self.secrets.account_key)] if self.secrets.account_key else [])]
        own_tokens = [*tokens, *([SecretStr(self.secrets.worker_token)] if self.secrets.worker_token else [])]
        try:
            self.endpoints = Endpoints(
                _distinct([*self._configured(configured), *made]),
                account_keys=[hashed(key) for key in own_accounts],
                worker_tokens=[hashed(key) for key in own_tokens],
                open_workers=settings.open_workers,
            )
        except ValueError as error:
            raise SettingsError(f"endpoints: {error}") from error

    def save(self, endpoint: Endpoint, here: bool) -> None:
        """Write an endpoint that was made over the API, or forget it. Raises: SettingsError."""
        if not endpoint.configured:
            self._made.put(endpoint.name, _written(endpoint) if here else None)

    def _configured(self, found: tuple[EndpointSettings, ...]) -> Iterator[Endpoint]:
        if not found:
            found = (EndpointSettings(name="default", id=1, groups=(GroupSettings(name="default", id=1001),)),)
        for settings in found:
            own = settings.api_key.get_secret_value() if settings.api_key else ""
            if not own:
                own = str(self._keys.made_once(f"endpoint/{settings.name}"))
            shown = "" if own.startswith("sha256:") else own
            yield Endpoint(settings=settings, api_key=shown, created_at=self._created_at(settings.name))

    def _created_at(self, name: str) -> float:
        return float(self._keys.made_once(f"created_at/{name}", lambda: str(round(time.time(), 3))))

    def _from_api(self) -> Iterator[Endpoint]:
        for name, kept in self._made.items():
            try:
                settings = EndpointSettings.model_validate(kept["settings"])
            except (ValidationError, KeyError, TypeError) as error:
                raise SettingsError(f"{MADE} in the state folder: {name} can't be used; take it out.") from error
            yield Endpoint(settings=settings, api_key=kept["api_key"], created_at=kept["created_at"], configured=False)


def _distinct(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Raises: ValueError for a name or a number that two of them, or of their groups, have."""
    groups = [group.id for endpoint in endpoints for group in endpoint.settings.groups]
    for what, values in (
        ("endpoints have the name", [endpoint.name for endpoint in endpoints]),
        ("endpoints have the id", [endpoint.id for endpoint in endpoints]),
        ("worker groups have the id", groups),
    ):
        for value, count in Counter(values).items():
            if count > 1:
                raise ValueError(f"two {what} {value}; those that were made over the API are in {MADE}, see there")
    return endpoints


def _written(endpoint: Endpoint) -> dict[str, Any]:
    settings = endpoint.settings.model_dump(mode="json", exclude={"api_key", "tokens", "tenants"})
    return {"settings": settings, "api_key": endpoint.api_key, "created_at": endpoint.created_at}


def state_folder(path: Path) -> Path:
    """Make the state folder, for its owner alone. Blocks. Raises: SettingsError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"ROUTER_STATE_DIR={path}: {error.strerror}") from error
    return path
