"""A tiny child program that behaves like a ComfyUI *process*: flags, readiness, log on stderr, exit codes.

Run by a fake installation's ``main.py`` (see ``make_install``). It executes no workflows; ``FAKE_MODE`` in its
environment decides how it starts: ``exit:<code>`` ends before the port is bound, ``hang`` never binds, ``stubborn``
ignores SIGINT and SIGTERM, ``parent`` starts a grandchild. Over HTTP: ``POST /fake/exit/<code>`` ends it,
``POST /fake/log`` writes the body to its log, ``GET /fake/env`` tells its environment, ``POST /upload/image`` stores
a file as ComfyUI does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

FLAGS = (
    *("--listen", "--port", "--output-directory", "--input-directory", "--temp-directory", "--user-directory"),
    *("--disable-auto-launch", "--database-url", "--disable-metadata", "--disable-api-nodes", "--cpu", "--cuda-device"),
    "--preview-method",
)


def make_install(root: Path, *, flags: tuple[str, ...] = FLAGS) -> Path:
    """Make a folder that looks like an installed ComfyUI and runs this program; return it."""
    (root / "comfy").mkdir(parents=True)
    (root / "input").mkdir()
    (root / "comfy" / "cli_args.py").write_text("\n".join(f'parser.add_argument("{flag}")' for flag in flags))
    (root / "main.py").write_text(f"import runpy\nrunpy.run_path({str(Path(__file__))!r}, run_name='__main__')\n")
    return root


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    """The few routes."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/system_stats":
            self.answer({"system": {"comfyui_version": "0.0.0", "argv": sys.argv}, "devices": []})
        elif path == "/fake/env":
            self.answer(dict(os.environ))
        elif path == "/internal/folder_paths":
            self.answer({"custom_nodes": [str(Path.cwd() / "custom_nodes")]})
        else:
            self.answer({}, status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/fake/exit/"):
            say("about to end")
            os._exit(int(self.path.rpartition("/")[2]))
        elif self.path == "/fake/log":
            say(body.decode())
            self.answer({})
        elif self.path == "/upload/image":
            self.store(body)
        else:
            self.answer({}, status=404)

    def store(self, body: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        fields: dict[str, bytes] = {}
        name = ""
        for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
            fields[str(part.get_param("name", header="content-disposition"))] = part.get_payload(decode=True) or b""
            name = part.get_filename() or name
        kind, subfolder = fields["type"].decode(), fields["subfolder"].decode()
        place = option("--temp-directory", ".") + "/temp" if kind == "temp" else option(f"--{kind}-directory", kind)
        folder = Path(place) / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(fields["image"])
        self.answer({"name": name, "subfolder": subfolder, "type": kind})

    def answer(self, value: object, *, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def main() -> None:
    mode = os.environ.get("FAKE_MODE", "")
    say(f"fake ComfyUI, mode {mode or 'normal'}")
    if mode.startswith("exit:"):
        say("this start went wrong")
        sys.exit(int(mode.partition(":")[2]))
    if mode == "hang":
        threading.Event().wait()
    if mode == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "parent":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        say(f"grandchild {child.pid}")
    server = ThreadingHTTPServer(("127.0.0.1", int(option("--port", "8188"))), Handler)
    server.daemon_threads = True
    say("Starting server")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("Stopped server")


if __name__ == "__main__":
    main()
