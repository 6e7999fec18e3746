"""Whether node packs import: ComfyUI itself loads them once, in its own Python, and ends (``--quick-test-for-ci``).

What its log says of each pack is read, as of ComfyUI 0.3.75: the table of import times, and before it the traceback of
each pack that failed. A result that was good holds until the packs, the packages or the interpreter change.
"""

import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provisioning.comfyui.record import Device
from provisioning.errors import ProvisioningError
from provisioning.interpreter import Interpreter
from provisioning.steps import Stamps, digest, say

TIMEOUT_S = 900.0
TAIL_LINES = 12
TABLE_LINE = re.compile(r"^\s*[\d.]+ seconds(?P<failed> \(IMPORT FAILED\))?: (?P<path>.+)$")
TRACEBACK = "Traceback (most recent call last)"


@dataclass(slots=True, kw_only=True)
class ImportCheck:
    """One check for all ``paths`` (of packs); runs when it is first asked. ``key``: what the result depends on."""

    root: Path
    workspace: Path
    interpreter: Interpreter
    device: Device
    paths: Sequence[Path]
    key: str
    _said: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def require(self, path: Path) -> int:
        """Return 0 when the pack imports. Raises ProvisioningError with the last lines of its traceback."""
        with self._lock:
            if self._stamps.fresh(self._stamp, self._full_key):
                return 0
            if self._said is None:
                self._said = self._load()
                if not any(problem(self._said, each) for each in self.paths):
                    self._stamps.mark(self._stamp, self._full_key)
        found = problem(self._said, path)
        if found:
            raise ProvisioningError(
                f"The node pack {path.name} does not import:\n{found}",
                remedy="Add what is missing to the manifest (pip, apt), take another version, or make it optional.",
            )
        return 0

    @property
    def _stamps(self) -> Stamps:
        return Stamps(self.workspace / ".provisioning" / "packs")

    @property
    def _stamp(self) -> str:
        return f"imports-{digest(sorted(map(str, self.paths)))[:8]}"

    @property
    def _full_key(self) -> str:
        return digest(self.key, sorted(map(str, self.paths)), self.interpreter.identity, str(self.root))

    def _load(self) -> str:
        say(f"    ComfyUI loads {len(self.paths)} node packs, to see that they import")
        scratch = self.workspace / ".provisioning" / "import-check"
        shutil.rmtree(scratch, ignore_errors=True)
        for name in ("output", "input", "temp", "user"):
            (scratch / name).mkdir(parents=True)
        command: list[str | Path] = [self.interpreter.python, "main.py", *self._flags(scratch)]
        environment = {**self.interpreter.environment(), **self.interpreter.env}
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise ProvisioningError(f"ComfyUI could not be started to load its nodes: {error}") from error
        except subprocess.TimeoutExpired:
            raise ProvisioningError(f"ComfyUI did not load its nodes within {TIMEOUT_S:.0f} s.") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return done.stdout.decode(errors="replace")

    def _flags(self, scratch: Path) -> list[str]:
        options = (self.root / "comfy" / "cli_args.py").read_text(errors="replace")
        flags = ["--quick-test-for-ci", "--disable-auto-launch"]
        for name in ("output", "input", "temp", "user"):
            flags += [f"--{name}-directory", str(scratch / name)]
        if self.device is Device.CPU:
            flags.append("--cpu")
        if "--database-url" in options:
            flags += ["--database-url", f"sqlite:///{scratch / 'comfyui.db'}"]
        if "--disable-api-nodes" in options:
            flags.append("--disable-api-nodes")
        if "--whitelist-custom-nodes" in options:
            flags += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *(path.name for path in self.paths)]
        return flags


def problem(said: str, path: Path) -> str | None:
    """Read what ComfyUI's log says of a pack; None when it was loaded. Pure."""
    lines = said.splitlines()
    for line in lines:
        row = TABLE_LINE.match(line)
        if (
            row is not None
            and Path(row["path"]).name == path.name
            and Path(row["path"]).parent.name == path.parent.name
        ):
            return _reason(lines, path) if row["failed"] else None
    return "\n".join(["ComfyUI ended before it was loaded:", *lines[-TAIL_LINES:]])


def _reason(lines: Sequence[str], path: Path) -> str:
    """Give the traceback's last lines, up to where the pack was named last."""
    named = re.compile(re.escape(str(path)) + r"(?![\w.-])")
    found = [number for number, line in enumerate(lines) if named.search(line) and not TABLE_LINE.match(line)]
    if not found:
        return "ComfyUI gives no reason."
    end = found[-1]
    begin = max((number for number in range(end) if lines[number].startswith(TRACEBACK)), default=end)
    block = [line for line in lines[begin : end + 1] if line.strip()]
    return "\n".join(block[-TAIL_LINES:])
