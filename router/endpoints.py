"""Who may do what: keys of the operator, of endpoints and of tenants; which endpoint a reporting worker belongs to.

Keys are compared as SHA-256 hashes; those that we made ourselves are known in clear and can be shown.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from lib.errors import Forbidden, InvalidRequest, JobConflict, JobNotFound, Unauthorized
from lib.serving.keyring import digest
from router.endpoint_settings import EndpointSettings, GroupSettings, TenantSettings, hashed
from router.model import Priority


class Scope(StrEnum):
    """How far a key reaches."""

    ACCOUNT = "account"
    ENDPOINT = "endpoint"
    TENANT = "tenant"


class UnknownEndpoint(JobNotFound):
    """No such endpoint, or the key does not reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Who shows a key. ``endpoint`` is the only one that it reaches, "" = all. ``tenant`` "" = the operator."""

    scope: Scope
    endpoint: str = ""
    tenant: str = ""
    priority: Priority = Priority.HIGH

    @property
    def is_operator(self) -> bool:
        return self.scope is Scope.ACCOUNT

    def reaches(self, endpoint: str) -> bool:
        """Whether the key is good for this endpoint."""
        return not self.endpoint or self.endpoint == endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint as configured. ``api_key`` is "" where only its hash is known."""

    settings: EndpointSettings
    api_key: str = field(default="", repr=False)
    created_at: float = 0.0
    configured: bool = True
    """By the operator's file; else it was made over the API."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def id(self) -> int:
        return self.settings.id

    def group(self, name: str) -> GroupSettings | None:
        """One of its groups."""
        return next((group for group in self.settings.groups if group.name == name), None)

    def tenant(self, name: str) -> TenantSettings | None:
        """One of its tenants."""
        return next((tenant for tenant in self.settings.tenants if tenant.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker belongs."""

    endpoint: Endpoint
    group: GroupSettings

    def key(self, worker_id: int) -> str:
        """The worker's name in the whole fleet."""
        return f"{self.endpoint.name}/{worker_id}"


Listener = Callable[[Endpoint, bool], None]
"""Hears of an endpoint that is new or changed (True), or gone (False)."""


class Endpoints:
    """All endpoints and keys of now."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        account_keys: Iterable[bytes],
        worker_tokens: Iterable[bytes],
        open_workers: bool = False,
    ) -> None:
        """Raises: ValueError for two endpoints of one name, one key in two roles, one container in two endpoints."""
        self._by_name: dict[str, Endpoint] = {}
        self._accounts = tuple(account_keys)
        self._worker_tokens = tuple(worker_tokens)
        self._open_workers = open_workers
        self._bearers: dict[bytes, Bearer] = {}
        self._containers: dict[int, tuple[str, str]] = {}
        self._token_owners: dict[bytes, str] = {}
        self._claimed: dict[int, tuple[str, str]] = {}
        self._listeners: list[Listener] = []
        for endpoint in endpoints:
            if endpoint.name in self._by_name:
                raise ValueError(f"two endpoints have the name {endpoint.name}")
            self._by_name[endpoint.name] = endpoint
        self._index()

    # -- look-ups -----------------------------------------------------------------------------------------------------

    def all(self) -> tuple[Endpoint, ...]:
        """By their number."""
        return tuple(sorted(self._by_name.values(), key=lambda endpoint: endpoint.id))

    def find(self, name: str) -> Endpoint:
        """Raises: UnknownEndpoint."""
        endpoint = self._by_name.get(name)
        if endpoint is None:
            raise UnknownEndpoint(f"There is no endpoint {name[:64]!r} here.")
        return endpoint

    def by_id(self, number: int) -> Endpoint:
        """Raises: UnknownEndpoint."""
        for endpoint in self._by_name.values():
            if endpoint.id == number:
                return endpoint
        raise UnknownEndpoint(f"There is no endpoint with the id {number} here.")

    def group_by_id(self, number: int) -> Place:
        """Raises: UnknownEndpoint."""
        for endpoint in self._by_name.values():
            for group in endpoint.settings.groups:
                if group.id == number:
                    return Place(endpoint=endpoint, group=group)
        raise UnknownEndpoint(f"There is no worker group with the id {number} here.")

    def who(self, key: str) -> Bearer | None:
        """Who shows this key; None: nobody knows it."""
        return self._bearers.get(digest(key)) if key else None

    def bearer(self, key: str) -> Bearer:
        """Raises: Unauthorized."""
        bearer = self.who(key)
        if bearer is None:
            raise Unauthorized("This API key is not known here." if key else "An API key is needed.")
        return bearer

    def operator(self, key: str) -> Bearer:
        """Raises: Unauthorized, Forbidden."""
        bearer = self.bearer(key)
        if not bearer.is_operator:
            raise Forbidden("This needs a key of the operator's account.")
        return bearer

    def may_use(self, key: str, endpoint: str) -> tuple[Endpoint, Bearer]:
        """Raises: Unauthorized, UnknownEndpoint: who does not reach an endpoint is not told whether it exists."""
        bearer = self.bearer(key)
        if not bearer.reaches(endpoint):
            raise UnknownEndpoint(f"There is no endpoint {endpoint[:64]!r} here.")
        return self.find(endpoint), bearer

    def reached(self, bearer: Bearer) -> tuple[Endpoint, ...]:
        """The endpoints that a key reaches."""
        return tuple(endpoint for endpoint in self.all() if bearer.reaches(endpoint.name))

    def shown_key(self, endpoint: Endpoint, presented: str) -> str:
        """The key to list for an endpoint: its own for the operator, where it is known; else the one that was shown,
        which opens it as well."""
        bearer = self.who(presented)
        return endpoint.api_key if endpoint.api_key and bearer and bearer.is_operator else presented

    # -- workers ------------------------------------------------------------------------------------------------------

    def place(self, worker_id: int, *, token: str = "", prefix: str = "") -> Place:
        """Find a worker's endpoint and group: by the ``/e/<name>`` of its REPORT_ADDR, its CONTAINER_ID, its
        MASTER_TOKEN (where one endpoint alone has it), or because there is only one. Raises: Unauthorized,
        UnknownEndpoint."""
        hashed_token = digest(token)
        mapped, group = self._claimed.get(worker_id) or self._containers.get(worker_id, ("", ""))
        name = prefix or mapped or self._token_owners.get(hashed_token, "") or self._only()
        endpoint = self.find(name)
        if not self._is_ours(endpoint, hashed_token):
            raise Unauthorized("This worker shows no token of the endpoint; set MASTER_TOKEN there.")
        first = endpoint.settings.groups[0]
        return Place(endpoint=endpoint, group=(endpoint.group(group) if mapped == name else None) or first)

    def claim(self, worker_id: int, *, endpoint: str, group: str) -> None:
        """We started this worker, for this group."""
        self._claimed[worker_id] = (endpoint, group)

    def _only(self) -> str:
        if len(self._by_name) == 1:
            return next(iter(self._by_name))
        raise UnknownEndpoint(
            "Nothing says which endpoint this worker belongs to: end its REPORT_ADDR with /e/<endpoint's name>."
        )

    def _is_ours(self, endpoint: Endpoint, token: bytes) -> bool:
        if self._open_workers:
            return True
        own = tuple(hashed(one) for one in endpoint.settings.tokens)
        return any(hmac.compare_digest(one, token) for one in own or self._worker_tokens)

    # -- changes ------------------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Tell of endpoints that come, change and go; of the latter, who listens last is told first."""
        self._listeners.append(listener)

    def add(self, settings: EndpointSettings, *, api_key: str, created_at: float) -> Endpoint:
        """An endpoint made over the API. Raises: JobConflict where the name is taken."""
        if settings.name in self._by_name:
            raise JobConflict(f"There is an endpoint {settings.name!r} already.")
        number = max((one.id for one in self._by_name.values()), default=0) + 1
        groups = tuple(
            group.model_copy(update={"id": group.id or number * 1000 + place})
            for place, group in enumerate(settings.groups or (GroupSettings(name="default"),), start=1)
        )
        settings = settings.model_copy(update={"id": number, "groups": groups})
        endpoint = Endpoint(settings=settings, api_key=api_key, created_at=created_at, configured=False)
        self._put(endpoint)
        return endpoint

    def change(self, endpoint: Endpoint, changes: Mapping[str, Any]) -> Endpoint:
        """Change settings of an endpoint until the next start, or for good where it was made over the API.

        Raises: InvalidRequest."""
        fixed = {"name": endpoint.name, "id": endpoint.id, "api_key": endpoint.settings.api_key}
        try:
            settings = EndpointSettings.model_validate(dict(endpoint.settings) | dict(changes) | fixed)
        except ValueError as error:
            raise InvalidRequest("These settings of the endpoint can't be used.") from error
        changed = replace(endpoint, settings=settings)
        self._put(changed)
        return changed

    def remove(self, endpoint: Endpoint) -> None:
        """Raises: Forbidden for one that the operator configured."""
        if endpoint.configured:
            raise Forbidden(f"{endpoint.name!r} is in the router's configuration; take it out there.")
        del self._by_name[endpoint.name]
        self._index()
        for listener in reversed(self._listeners):
            listener(endpoint, False)

    def _put(self, endpoint: Endpoint) -> None:
        self._by_name[endpoint.name] = endpoint
        self._index()
        for listener in self._listeners:
            listener(endpoint, True)

    def _index(self) -> None:
        self._bearers = {key: Bearer(scope=Scope.ACCOUNT) for key in self._accounts}
        self._containers, self._token_owners = {}, {}
        for endpoint in self._by_name.values():
            self._index_keys(endpoint)
            for token in map(hashed, endpoint.settings.tokens):
                self._token_owners[token] = "" if token in self._token_owners else endpoint.name
            for group in endpoint.settings.groups:
                for container in group.containers:
                    place = (endpoint.name, group.name)
                    if self._containers.setdefault(container, place) != place:
                        raise ValueError(f"the container {container} is in two groups")

    def _index_keys(self, endpoint: Endpoint) -> None:
        own = Bearer(scope=Scope.ENDPOINT, endpoint=endpoint.name)
        self._claim(digest(endpoint.api_key) if endpoint.api_key else None, own)
        self._claim(hashed(endpoint.settings.api_key) if endpoint.settings.api_key else None, own)
        for tenant in endpoint.settings.tenants:
            bearer = Bearer(scope=Scope.TENANT, endpoint=endpoint.name, tenant=tenant.name, priority=tenant.priority)
            for key in tenant.api_keys:
                self._claim(hashed(key), bearer)

    def _claim(self, key: bytes | None, bearer: Bearer) -> None:
        if key is not None and self._bearers.setdefault(key, bearer) != bearer:
            raise ValueError(f"a key of the endpoint {bearer.endpoint} is in use elsewhere too")
