"""What a manifest brings after ComfyUI's start: noted, brought in a process of its own, its failure told."""

import asyncio
import json
from pathlib import Path

import pytest

from provisioning.beside import NOTE, Later
from provisioning.errors import ProvisioningError
from provisioning.facts import HostFacts
from provisioning.later import bring, note
from provisioning.manifest import Manifest, parse_manifest
from tests.provisioning.servers import FileServer


def after_start(*entries: tuple[str, str]) -> Manifest:
    models = [{"url": url, "local_path": path} for url, path in entries]
    return parse_manifest(json.dumps({"models": {"after_start": models}}), name="m.json").parted()[1]


def facts(tmp_path: Path) -> HostFacts:
    return HostFacts(
        workspace=tmp_path,
        comfyui_root=tmp_path / "ComfyUI",
        conditions=frozenset(),
        cron_dir=tmp_path,
        retry_wait_s=0.001,
    )


def test_what_was_noted_is_brought_once_asked(tmp_path: Path, server: FileServer) -> None:
    """The note is the operator's alone, as keys may be in its URLs; without entries there is none."""
    assert not Later().wanted(tmp_path)
    note(tmp_path, after_start((server.add("/m", b"abc"), "models/loras/m.bin")))
    assert Later().wanted(tmp_path) and (tmp_path / NOTE).stat().st_mode & 0o777 == 0o600
    assert [step.name for step in bring(facts(tmp_path))] == ["loras/m.bin"]
    assert (tmp_path / "ComfyUI" / "models" / "loras" / "m.bin").read_bytes() == b"abc"
    note(tmp_path, Manifest())
    assert not Later().wanted(tmp_path)
    assert bring(facts(tmp_path)) == ()


def test_all_are_tried_and_every_failure_is_told(tmp_path: Path, server: FileServer) -> None:
    """The report of the host's preparation is not touched: the worker's readiness does not depend on this."""
    good = server.add("/good", b"abc")
    note(tmp_path, after_start((f"{server.url}/a", "models/a"), (good, "models/b"), (f"{server.url}/c", "models/c")))
    with pytest.raises(ProvisioningError, match=r"model a: .*/a answered 404.*model c: .*/c answered 404"):
        bring(facts(tmp_path))
    assert (tmp_path / "ComfyUI" / "models" / "b").read_bytes() == b"abc"
    assert not (tmp_path / "provisioning-report.json").exists()


async def test_the_worker_has_it_done_beside_itself(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that knows the host by itself; the cause of a failure comes back."""
    root = tmp_path / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    monkeypatch.setenv("COMFYUI_INSTALL_PATH", str(root))
    monkeypatch.setenv("COMFYUI_DEVICE", "cpu")
    url = server.add("/m", b"abc")
    await asyncio.to_thread(note, tmp_path, after_start((url, "models/m"), (url, "/" + str(tmp_path / "x")[1:])))
    assert await Later().bring(tmp_path) is None
    assert (root / "models" / "m").read_bytes() == (tmp_path / "x").read_bytes() == b"abc"
    await asyncio.to_thread(note, tmp_path, after_start((f"{server.url}/gone", "models/gone")))
    assert "/gone answered 404" in str(await Later().bring(tmp_path))


async def test_it_ends_with_the_worker(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that lasts does not hold the worker's end."""
    root = tmp_path / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    monkeypatch.setenv("COMFYUI_INSTALL_PATH", str(root))
    monkeypatch.setenv("COMFYUI_DEVICE", "cpu")
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()  # until it is gone
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as sink:
        port = sink.sockets[0].getsockname()[1]
        await asyncio.to_thread(note, tmp_path, after_start((f"http://127.0.0.1:{port}/m", "models/m")))
        running = asyncio.ensure_future(Later().bring(tmp_path))
        async with asyncio.timeout(120):
            await asked.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
