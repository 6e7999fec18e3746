"""What is installed and how it is started: the install record, ComfyUI's folders and command line. Starts nothing."""

import argparse
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from lib.comfy.liveness import Stats, argv_of
from lib.comfy.ports import Folders
from lib.errors import EngineUnreachable
from lib.settings import EngineSettings, SettingsError

log = logging.getLogger(__name__)

RECORD_NAME = "comfyui.json"
ENVIRONMENTS = ("venv/bin/python", ".venv/bin/python", "../venv/bin/python", "../.venv/bin/python")
"""Where an installation that we did not make keeps its interpreter, relative to its folder."""
NODES = Path(__file__).resolve().parent / "nodes"
"""Our node pack for processes that we launch: it says when ComfyUI's executor thread ends."""
OURS = ("--port", "--temp-directory", "--user-directory", "--database-url", "--tls-keyfile", "--tls-certfile")
"""Flags with one value that follow from our own settings; taken out of ``COMFYUI_ARGS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """One ComfyUI on this machine. ``env`` is added to its environment, ``device`` is ``cpu`` or ``cuda``,
    ``extra_model_paths`` are lists of model folders that provisioning made (those of a network volume)."""

    python: Path
    root: Path
    env: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    device: str = ""
    extra_model_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraArgs:
    """``COMFYUI_ARGS``, parted into what decides something of ours and the rest."""

    rest: tuple[str, ...] = ()
    port: int | None = None
    listen: str = "127.0.0.1"
    output: Path | None = None
    input: Path | None = None

    @property
    def host(self) -> str:
        return reachable(self.listen)


def reachable(listen: str) -> str:
    """Give the address at which we reach a server that listens at ``listen``, a comma list."""
    first = listen.split(",")[0]
    return "127.0.0.1" if first in ("0.0.0.0", "::", "localhost") else first  # noqa: S104


def url_of(host: str, port: int) -> str:
    """Give a base URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one ComfyUI process of ours is started, everything but the port; a ``lib.comfy.ports.Start``."""

    name: str
    install: Install
    folders: Folders
    temp_parent: Path
    user: Path
    log: Path
    record: Path
    extra_paths: Path
    flags: tuple[str, ...]
    host: str = "127.0.0.1"
    env: Mapping[str, str] = field(default_factory=dict)
    fixed_port: bool = False

    @property
    def cwd(self) -> Path:
        return self.install.root

    def command(self, port: int) -> tuple[str, ...]:
        return (str(self.install.python), "main.py", "--port", str(port), *self.flags)

    def environment(self, port: int) -> Mapping[str, str]:
        return self.env

    def base_url(self, port: int) -> str:
        return url_of(self.host, port)

    def is_ours(self, stats: Stats, *, pid: int, port: int) -> bool:
        """Whether the server there is the one that we started: only that has our temp folder."""
        argv = argv_of(stats)
        return not argv or str(self.temp_parent) in argv

    async def shared(self, stats: Stats, *, port: int, http: aiohttp.ClientSession) -> Folders | None:
        return self.folders

    def make_folders(self) -> None:
        """Make what the process needs to find. Blocks."""
        for folder in (self.folders.output, self.folders.input, self.temp_parent, self.user, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self.extra_paths.write_text(f"pyworker:\n    custom_nodes: {NODES}\n", encoding="utf-8")


def read_install(settings: EngineSettings) -> Install:
    """Find out what to start: the record that provisioning wrote, else ``COMFYUI_INSTALL_PATH``.

    Raises: EngineUnreachable when neither names a ComfyUI.
    """
    record = settings.install_record or settings.workspace / RECORD_NAME
    wanted = settings.install_path
    install = _recorded(record)
    if install is not None and (wanted is None or install.root.resolve() == wanted.resolve()):
        return install
    if wanted is None:
        raise EngineUnreachable(
            f"no ComfyUI is running and none is installed: {record} does not name one; run ./start_server.sh, "
            "or set COMFYUI_API_BASE or COMFYUI_INSTALL_PATH"
        )
    if not (wanted / "main.py").is_file():
        raise EngineUnreachable(f"COMFYUI_INSTALL_PATH={wanted} has no main.py; expected the folder of a ComfyUI")
    return Install(python=_interpreter_of(wanted), root=wanted.resolve())


def _recorded(path: Path) -> Install | None:
    try:
        values = orjson.loads(path.read_bytes())
        install = Install(
            python=Path(values["python"]),
            root=Path(values["root"]),
            env={str(name): str(value) for name, value in values.get("env", {}).items()},
            version=str(values.get("version", "")),
            device=str(values.get("device", "")),
            extra_model_paths=tuple(map(str, values.get("extra_model_paths", ()))),
        )
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} is not an install record: {error!r}; delete it and run ./start_server.sh"
        ) from error
    return install if install.python.exists() and (install.root / "main.py").is_file() else None


def _interpreter_of(root: Path) -> Path:
    for name in ENVIRONMENTS:
        if (python := root / name).exists():
            return python
    found = shutil.which("python3")
    if found is None:
        raise EngineUnreachable(f"no Python interpreter found for {root}")
    return Path(found)


def parse_args(text: str, *, listen: str = "127.0.0.1") -> ExtraArgs:
    """Part ``COMFYUI_ARGS``; ``listen``: the address where they name none. Raises: SettingsError."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in OURS:
        parser.add_argument(flag, type=int if flag == "--port" else str)
    parser.add_argument("--listen", nargs="?", const="0.0.0.0", default=listen)  # noqa: S104
    parser.add_argument("--output-directory", type=Path)
    parser.add_argument("--input-directory", type=Path)
    try:
        known, rest = parser.parse_known_args(shlex.split(text))
    except (argparse.ArgumentError, ValueError) as error:
        raise SettingsError(f"COMFYUI_ARGS={text!r}: {error}") from error
    ignored = [flag for flag in OURS[1:] if getattr(known, flag[2:].replace("-", "_")) is not None]
    if ignored:
        log.warning("flags are ours to choose, ignored", extra={"event": "comfyui.args_ignored", "flags": ignored})
    return ExtraArgs(
        rest=tuple(rest),
        port=known.port,
        listen=known.listen,
        output=known.output_directory,
        input=known.input_directory,
    )


def plan(settings: EngineSettings, install: Install, *, number: int, device: str | None = None) -> Launch:
    """Lay out process ``number`` (from 1): its folders under the workspace and its flags.

    Outputs and inputs are shared by all processes (jobs have folders of their own there); temp folder, user folder
    and database are each one's own, because ComfyUI wipes the one and locks the other. ``device`` is a GPU's index
    or UUID.
    """
    name = f"comfyui-{number}"
    workspace = settings.workspace.resolve()
    extra = parse_args(settings.args, listen=settings.address)
    temp_parent = workspace / "temp" / name
    folders = Folders(
        output=(settings.output_path or extra.output or workspace / "output").resolve(),
        input=(settings.input_path or extra.input or _input_folder(install.root, workspace)).resolve(),
        temp=temp_parent / "temp",
    )
    user = workspace / "user" / name
    extra_paths = user / "pyworker_paths.yaml"
    by_index = device is not None and device.isdigit()
    flags = (
        *("--listen", extra.listen, "--disable-auto-launch"),
        *("--output-directory", str(folders.output), "--input-directory", str(folders.input)),
        *("--temp-directory", str(temp_parent), "--user-directory", str(user)),
        *(("--cuda-device", str(device)) if by_index else ()),
        *(("--cpu",) if install.device == "cpu" and "--cpu" not in extra.rest else ()),
        *("--extra-model-paths-config", str(extra_paths), *_model_paths(settings, install)),
        *_optional_flags(settings, install.root, database=user / "comfyui.db"),
        *extra.rest,
    )
    return Launch(
        name=name,
        install=install,
        folders=folders,
        temp_parent=temp_parent,
        user=user,
        log=workspace / "logs" / f"{name}.log",
        record=workspace / "run" / f"{name}.json",
        extra_paths=extra_paths,
        flags=flags,
        host=extra.host,
        env=dict(install.env) | ({"CUDA_VISIBLE_DEVICES": device} if device is not None and not by_index else {}),
    )


def _model_paths(settings: EngineSettings, install: Install) -> tuple[str, ...]:
    """Lists of model folders, the operator's and the host's, as whole paths: ComfyUI runs in its own folder.
    Raises: SettingsError."""
    paths = [Path(name).expanduser().resolve() for name in settings.extra_model_paths]
    for path in paths:
        if not path.is_file():
            given = ",".join(settings.extra_model_paths)
            expected = "files in the form of ComfyUI's extra_model_paths.yaml"
            raise SettingsError(f"COMFYUI_EXTRA_MODEL_PATHS={given}: {path} is no file; expected {expected}")
    for path in map(Path, install.extra_model_paths):
        if path.is_file():
            paths.append(path)
        else:
            facts = {"event": "comfyui.model_paths", "path": str(path)}
            log.warning("a list of model folders is gone; ./start_server.sh makes it anew", extra=facts)
    return tuple(map(str, dict.fromkeys(paths)))


def _input_folder(root: Path, workspace: Path) -> Path:
    """The installation's own input folder, where its user keeps files, unless it is not ours to write."""
    own = root / "input"
    return own if os.access(own, os.W_OK | os.X_OK) else workspace / "input"


def _optional_flags(settings: EngineSettings, root: Path, *, database: Path) -> tuple[str, ...]:
    """Flags that not every ComfyUI knows, where this one does: an unknown flag would end it at once."""
    wanted: list[tuple[str, ...]] = [("--database-url", f"sqlite:///{database}")]
    if not settings.embed_metadata:
        wanted.append(("--disable-metadata",))
    if not settings.allow_api_nodes and settings.comfy_org_api_key is None:  # who gives a key wants them
        wanted.append(("--disable-api-nodes",))
    if settings.preview_method != "none":
        wanted.append(("--preview-method", settings.preview_method))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if level != logging.INFO:  # its own choice; an old one's --verbose takes no level
        wanted.append(("--verbose", logging.getLevelName(max(level, logging.DEBUG))))
    known = _known_flags(root)
    return tuple(part for flag in wanted if flag[0] in known for part in flag)


def _known_flags(root: Path) -> frozenset[str]:
    """Read the flags from ComfyUI's own option table; asking ``main.py --help`` would take seconds."""
    try:
        text = (root / "comfy" / "cli_args.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(re.findall(r"""["'](--[a-z0-9-]+)["']""", text))
