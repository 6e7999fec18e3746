"""Puts scaling into the process: providers as configured, the loop, the figures, updates."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from lib.lifecycle import every
from lib.serving.access import Need
from lib.settings import SettingsError, child_environment
from router.endpoint_settings import GroupSettings, listed
from router.endpoints import Endpoint
from router.parts import Ground, Part
from router.scaling.command import CommandLine
from router.scaling.control import Scaler
from router.scaling.group import Group
from router.scaling.local import LocalProcesses
from router.scaling.ports import Launch, Provider
from router.scaling.provider_settings import (
    CommandProvider,
    LocalProvider,
    ProviderSettings,
    VastProvider,
)
from router.scaling.routes import UPDATE, ScalingRoutes, Updating
from router.settings import LOOPBACK, RouterSettings
from router.wire.answers import render_error

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 1.0
WORKERS = "workers"
FIRST_LOCAL = 1_000_000
"""Numbers of local workers are above those that operators give."""


async def scaling(ground: Ground, stack: AsyncExitStack) -> Part:
    """Build the part. Raises: SettingsError."""
    groups: dict[tuple[str, str], Group] = {}
    scaler = Scaler(ground)
    for endpoint in ground.endpoints.all():
        for settings in endpoint.settings.groups:
            if (provider := settings.provider) is not None:
                group = _group(ground, endpoint, settings, provider, soon=scaler.soon)
                groups[endpoint.name, settings.name] = group
    scaler.use(groups)
    stack.callback(ground.dispatcher.changes.listen(scaler.hear))
    figures = ScalingRoutes(scaler, ground.dispatcher)
    updating = Updating(
        dispatcher=ground.dispatcher,
        link=ground.core.link,
        http=ground.http,
        clock=ground.clock,
        token_of=lambda endpoint: "" if ground.settings.open_workers else _token(ground, endpoint),
        owned=scaler.owned,
        soon=scaler.soon,
    )
    return Part(
        name="scaling",
        routes=[*figures.routes(), web.post(UPDATE, updating.update)],
        needs={**figures.needs(), UPDATE: Need.FREE},
        render_error=render_error,
        operations=figures.operations(),
        loops={"decisions": every(LOOK_S, scaler.tick_if_due, name="scaling", clock=ground.clock)},
        health=scaler.health,
        stop=scaler.resign,
    )


def _group(
    ground: Ground,
    endpoint: Endpoint,
    settings: GroupSettings,
    provider: ProviderSettings,
    *,
    soon: Callable[[], object],
) -> Group:
    name = f"{endpoint.name}/{settings.name}"
    _check(ground.settings, provider, name=name)
    token = provider.env.get("MASTER_TOKEN") or _token(ground, endpoint)
    if not token and not ground.settings.open_workers:
        raise SettingsError(
            f"the provider of {name}: only hashes of the workers' tokens are known; put MASTER_TOKEN into its env."
        )

    def launch() -> Launch:
        environment = {"REPORT_ADDR": f"{ground.base_url()}/e/{endpoint.name}", "MASTER_TOKEN": token, **provider.env}
        return Launch(
            endpoint=endpoint.name,
            group=settings.name,
            environment={name: value for name, value in environment.items() if value},
        )

    return Group(
        endpoint=endpoint.name,
        name=settings.name,
        provider=_provider(ground, provider, launch_of=launch, token=token),
        launch_of=launch,
        clock=ground.clock,
        tasks=ground.tasks,
        changed=soon,
        boot_s=settings.boot_time,
        most=len(provider.each) if isinstance(provider, LocalProvider) else None,
    )


def _check(settings: RouterSettings, provider: object, *, name: str) -> None:
    """Raises: SettingsError for what can't work."""
    if isinstance(provider, LocalProvider) and settings.shared:
        raise SettingsError(
            f"the provider of {name} is local, and routers share ROUTER_STORE: others can't stop this one's processes."
        )
    if isinstance(provider, VastProvider):
        public = urlsplit(settings.public_url or "").hostname
        if public is None or public in LOOPBACK:
            raise SettingsError(f"the provider of {name} is vast: set ROUTER_PUBLIC_URL, where its workers report.")
        if settings.vast_key is None:
            raise SettingsError(f"the provider of {name} is vast: set ROUTER_SCALING_VAST_KEY.")
        if not (provider.template_hash or provider.image):
            raise SettingsError(f"the provider of {name} is vast: it needs template_hash or image.")


def _provider(ground: Ground, provider: ProviderSettings, *, launch_of: Callable[[], Launch], token: str) -> Provider:
    if isinstance(provider, LocalProvider):
        return _local(ground, provider, launch_of=launch_of)
    if isinstance(provider, CommandProvider):
        command, environment = provider.command, _clean()
        options, secrets = dict(provider.options), [token, *provider.env.values()]
    else:
        key = ground.settings.vast_key.get_secret_value() if ground.settings.vast_key else ""
        command = (ground.settings.vast_python or sys.executable, str(Path(__file__).with_name("vast.py")))
        environment = _clean() | {"VAST_API_KEY": key}
        if ground.settings.vast_url:
            environment["VAST_URL"] = ground.settings.vast_url
        options = provider.model_dump(exclude={"kind", "env", "timeout", "list_every", "keeps_stopped"})
        secrets = [key, token, *provider.env.values()]
    launch = launch_of()
    return CommandLine(
        command,
        endpoint=launch.endpoint,
        group=launch.group,
        environment=environment,
        options=options,
        timeout_s=provider.timeout,
        fresh_s=provider.list_every,
        keeps_stopped=provider.keeps_stopped,
        secrets=secrets,
    )


def _local(ground: Ground, provider: LocalProvider, *, launch_of: Callable[[], Launch]) -> LocalProcesses:
    async def number() -> int:
        return FIRST_LOCAL + await ground.state.next_number("local-worker")

    launch = launch_of()
    return LocalProcesses(
        provider,
        folder=(ground.settings.state_dir / WORKERS / launch.endpoint / launch.group).resolve(),
        root=ROOT,
        launch_of=launch_of,
        number=number,
        clock=ground.clock,
        tasks=ground.tasks,
    )


def _clean() -> dict[str, str]:
    """Our environment without our own variables: programs need not know them."""
    return {name: value for name, value in child_environment({}).items() if not name.startswith("ROUTER_")}


def _token(ground: Ground, endpoint: Endpoint) -> str:
    """A token that workers of the endpoint may report with, in clear; "": only hashes are known."""
    own: Sequence[str] = [one.get_secret_value() for one in endpoint.settings.tokens]
    if not own:
        tokens = listed(ground.settings.worker_tokens, variable="ROUTER_WORKER_TOKENS")
        own = [*(one.get_secret_value() for one in tokens), ground.keeping.secrets.worker_token]
    return next((one for one in own if one and not one.startswith("sha256:")), "")
