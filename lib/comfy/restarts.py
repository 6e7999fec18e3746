"""When a ComfyUI of ours is started again, and on which port; pure but for looking at ports."""

import socket
from contextlib import closing
from dataclasses import dataclass

from lib.comfy.liveness import PAUSE_S
from lib.errors import EngineUnreachable
from lib.settings import EngineSettings

PORTS_TRIED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When and how often to start again. ``probe_s``: what comes up is asked so often; ``stable_s``: having answered
    so long, earlier failures are forgotten."""

    always_restart: bool = True
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    startup_timeout_s: float = 600.0
    probe_s: float = PAUSE_S
    first_attempts: int = 3
    stable_s: float = 60.0
    patience_s: float = 5.0

    @classmethod
    def of(cls, settings: EngineSettings) -> "RestartPolicy":
        return cls(
            always_restart=settings.always_restart,
            backoff_s=settings.restart_backoff_s,
            backoff_max_s=settings.restart_backoff_max_s,
            startup_timeout_s=settings.startup_timeout_s,
            probe_s=settings.probe_interval_ms / 1000,
        )

    def pause_s(self, failures: int) -> float:
        """The pause after the given number of failures in a row."""
        return float(min(self.backoff_max_s, self.backoff_s * 2 ** min(failures - 1, 30)))


def free_port(first: int, *, host: str = "127.0.0.1") -> int:
    """Return ``first`` or the next port that nobody listens on; any free one when ``first`` is 0.

    Raises: EngineUnreachable.
    """
    last = min(first + PORTS_TRIED, 65535)
    for port in range(first, last + 1) if first else (0,):
        if found := _bindable(port, host):
            return found
    raise EngineUnreachable(f"no free port for ComfyUI at {host} between {first} and {last}")


def is_taken(port: int, *, host: str) -> bool:
    """Whether somebody listens on that port already."""
    return not _bindable(port, host)


def _bindable(port: int, host: str) -> int:
    """The port that could be bound; 0 for none."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])
