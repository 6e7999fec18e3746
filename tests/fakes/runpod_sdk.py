"""A stand-in for the process of RunPod's SDK, for tests of the worker's side: ``python -m tests.fakes.runpod_sdk MODE
[--refresh] SOCKET``.

``jobs``: once fit it takes job ``a``, answers its progress, and posts its result into the file ``RESULT_FILE``.
``stop``: it takes ``a``, and stops it when told of progress. A number: it ends with this status once it is fit. What it
has in hand goes on after SIGTERM, as in the SDK.
"""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from lib.fleet.runpod.frames import Kind
from lib.fleet.runpod.sdk import Line


def main(mode: str, *arguments: str) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = Line(socket.socket(fileno=int(arguments[-1])))
    threading.Thread(target=line.write, daemon=True).start()
    rooms: list[int] = []
    while (message := line.receive()) is not None:
        match message.kind:
            case Kind.FIT if mode.isdigit():
                return int(mode)
            case Kind.UNFIT:
                record(unfit=message.body)
                return 1
            case Kind.FIT:
                line.send(Kind.TAKEN, 1, {"id": "a", "input": {"arguments": arguments[:-1]}})
            case Kind.ROOM:
                rooms.append(message.body)
            case Kind.PROGRESS:
                line.send(Kind.STOPPED if mode == "stop" else Kind.TOLD, 1)
                if mode == "stop":
                    line.send(Kind.POSTED, 1)
            case Kind.RESULT:
                record(result=message.body, rooms=rooms)
                line.send(Kind.POSTED, 1)
    return 0


def record(**facts: Any) -> None:
    Path(os.environ["RESULT_FILE"]).write_text(json.dumps(facts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
