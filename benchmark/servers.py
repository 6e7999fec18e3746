"""Starts the processes that a measurement needs, on free loopback ports, and stops them: ComfyUI, our worker, S3."""

import asyncio
import json
import os
import random
import secrets
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import aiohttp
import psutil

from benchmark.settings import REPOSITORY

RECORD_NAME = "comfyui.json"
ANSWER_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
PORTS = range(20_000, 32_000)
BUCKET = "benchmark"
NODES = Path(__file__).resolve().parent / "nodes"


class ServerFailed(Exception):
    """A process ended early or does not answer; the text has its last log lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running process of ours."""

    base_url: str
    process: psutil.Process
    folder: Path

    def rss_bytes(self) -> int:
        """Resident memory of the process and its children."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(map(_rss_bytes, processes))

    def cpu_s(self) -> float:
        """Processor time used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server(Server):
    """A local S3 server with one bucket."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    def block(self) -> dict[str, str]:
        """What a request says to have its outputs put here."""
        return {
            "endpoint_url": self.base_url,
            "bucket_name": BUCKET,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": "us-east-1",
        }


class NoComfyUI(Exception):
    """There is no installed ComfyUI to measure; the text says what to do."""


def find_record(environ: Mapping[str, str]) -> Path:
    """Find the record of the installation that ``make setup`` or ``start_server.sh`` made."""
    named = environ.get("COMFYUI_TEST_DIR")
    folders = [Path(named)] if named else [REPOSITORY / ".comfyui", REPOSITORY / "workspace", Path("/workspace")]
    for folder in folders:
        if (folder / RECORD_NAME).is_file():
            return folder / RECORD_NAME
    places = ", ".join(str(folder / RECORD_NAME) for folder in folders)
    raise NoComfyUI(f"No ComfyUI found ({places}). Run make setup, or name its folder in COMFYUI_TEST_DIR.")


@asynccontextmanager
async def comfyui(record_path: Path, folder: Path, *, pack: bool = False) -> AsyncIterator[Server]:
    """Start ComfyUI with folders of its own under ``folder``; with ``pack`` it times its executions (``stopwatch``)
    and has the node ``BenchTicks``."""
    port = free_port()
    command, environ = _comfyui_command(record_path, folder, port)
    if pack:
        paths = folder / "extra_paths.yaml"
        paths.write_text(f"benchmark:\n    custom_nodes: {NODES}\n", encoding="utf-8")
        command += ["--extra-model-paths-config", str(paths)]
        environ |= {"BENCHMARK_STOPWATCH": str(stopwatch(folder))}
    url = f"http://127.0.0.1:{port}"
    async with process(command, environ=environ, folder=folder, name="comfyui", url=url, probe="/system_stats") as one:
        yield one


def stopwatch(folder: Path) -> Path:
    """Where a ComfyUI under ``folder`` writes its execution times, if it was started with the pack."""
    return folder / "stopwatch.txt"


@asynccontextmanager
async def worker(comfy: Server, folder: Path, extra: Mapping[str, str]) -> AsyncIterator[Server]:
    """Start our worker beside ``comfy``, with access to its folders, and wait until it admits jobs."""
    port, public, plain = free_ports(3)
    environ = {
        **environment(),
        "PYWORKER_HOST_READY": "1",
        "COMFYUI_API_BASE": comfy.base_url,
        "COMFYUI_OUTPUT_PATH": str(comfy.folder / "output"),
        "COMFYUI_INPUT_PATH": str(comfy.folder / "input"),
        "WORKSPACE_DIR": str(folder / "workspace"),
        "API_PORT": str(port),
        "WORKER_PORT": str(public),
        "WORKER_HTTP_PORT": str(plain),
        **extra,
    }
    command = [sys.executable, str(REPOSITORY / "workers" / "comfyui-json" / "worker.py")]
    url = f"http://127.0.0.1:{port}"
    async with process(command, environ=environ, folder=folder, name="worker", url=url, probe="/ready") as one:
        yield one


@asynccontextmanager
async def s3(folder: Path) -> AsyncIterator[S3Server]:
    """Start a local S3 server (from the development requirements) with one empty bucket."""
    access_key, secret_key = f"bench-{secrets.token_hex(4)}", secrets.token_hex(16)
    environ = {**os.environ, "NANIO_ACCESS_KEY": access_key, "NANIO_SECRET_KEY": secret_key}
    data = folder / "s3"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(data), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-access-log"]
    url = f"http://127.0.0.1:{port}"
    async with process(command, environ=environ, folder=folder, name="s3", url=url, probe="/", any_status=True) as one:
        yield S3Server(
            base_url=url, process=one.process, folder=one.folder, access_key=access_key, secret_key=secret_key
        )


def environment() -> dict[str, str]:
    """What every process of ours needs of the environment, and no setting."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ}


def empty(folder: Path) -> None:
    """Remove everything in ``folder``: old files slow ComfyUI down. Blocking."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def free_port() -> int:
    """A loopback port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many, all different, and none that the system gives to others before their server is up."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended meanwhile
        return 0


def _comfyui_command(record_path: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    record = json.loads(record_path.read_bytes())
    command = [record["python"], f"{record['root']}/main.py", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", f"sqlite:///{folder}/comfyui.db"]
    for name in ("output", "input", "temp", "user"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        command += [f"--{name}-directory", str(folder / name)]
    if record.get("device") == "cpu":
        command.append("--cpu")
    return command, {**os.environ, **record.get("env", {})}


@asynccontextmanager
async def process(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    name: str,
    url: str,
    probe: str,
    any_status: bool = False,
) -> AsyncIterator[Server]:
    """Run a command until the block is left; its log is ``folder/<name>.log``. Raises: ServerFailed where it ends, or
    ``url`` and ``probe`` give no answer (200, or any)."""
    log, sink = _open_log(folder, name)
    with sink:
        child = await asyncio.create_subprocess_exec(
            *command, cwd=REPOSITORY, env=dict(environ), stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        await _answers(child, url + probe, log=log, any_status=any_status)
        yield Server(base_url=url, process=psutil.Process(child.pid), folder=folder)
    finally:
        await _stop(child)


def _open_log(folder: Path, name: str) -> tuple[Path, BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    return log, log.open("wb")


async def _answers(child: asyncio.subprocess.Process, url: str, *, log: Path, any_status: bool) -> None:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        while time.monotonic() < deadline:
            if child.returncode is not None:
                raise ServerFailed(f"{log.stem} ended with {child.returncode}:\n{_tail(log)}")
            try:
                async with http.get(url) as response:
                    if any_status or response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.2)  # the other side offers nothing to wait on
    raise ServerFailed(f"{log.stem} did not answer at {url} within {ANSWER_TIMEOUT_S:.0f} s:\n{_tail(log)}")


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
        try:
            await asyncio.wait_for(child.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            child.kill()
            await child.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
