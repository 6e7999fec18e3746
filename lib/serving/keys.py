"""The command that makes API keys: ``python -m lib.serving.keys new NAME``; only the hash is written."""

import argparse
import json
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.serving.keyring import digest, file_keys, indexed, reason_of
from lib.settings import AccessSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Mint a key: the key itself goes to standard output, once; its hash into the file, or to the other stream."""
    asked = _parser().parse_args(arguments)
    path: Path | None = asked.file
    key = "pw_" + secrets.token_urlsafe(32)
    entry = _entry(asked, digest(key).hex())
    try:
        path = path or AccessSettings().api_keys_file
        if path is not None:
            _append(path, entry)
        else:
            file_keys(entry)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{path or 'the key'}: {reason_of(error)}\n")
        return 1
    where = f"Written to {path}." if path is not None else f"No key file is set (API_KEYS_FILE). Its entry:\n{entry}"
    sys.stderr.write(f"{where}\nThe key of {asked.name}, shown this once:\n")
    sys.stdout.write(f"{key}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.serving.keys", description="API keys of the worker.")
    new = parser.add_subparsers(required=True).add_parser("new", help="make a key and write its hash to the key file")
    new.add_argument("name", help="for logs, unique")
    new.add_argument("--tenant", help="whose jobs it sees; its own name by default")
    new.add_argument("--scope", action="append", choices=("jobs", "admin"), help="jobs by default")
    new.add_argument("--per-minute", type=float, metavar="N", help="jobs that it may submit a minute")
    new.add_argument("--in-flight", type=int, metavar="N", help="unfinished jobs that it may have")
    new.add_argument("--file", type=Path, metavar="PATH", help="the key file; API_KEYS_FILE by default")
    return parser


def _entry(asked: argparse.Namespace, hashed: str) -> str:
    lines = {
        "name": asked.name,
        "tenant": asked.tenant,
        "scopes": asked.scope or ["jobs"],
        "sha256": hashed,
        "requests_per_minute": asked.per_minute,
        "max_in_flight": asked.in_flight,
    }
    text = "\n  ".join(f"{name}: {json.dumps(value)}" for name, value in lines.items() if value is not None)
    return f"- {text}\n"


def _append(path: Path, entry: str) -> None:
    """Put an entry at the file's end, whole or not at all; its comments stay. Raises: OSError, ValueError."""
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    text = f"{known.rstrip()}\n{entry}" if known.strip() else entry
    indexed(file_keys(text))
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")
        new.chmod(mode)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
