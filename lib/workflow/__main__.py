"""``python -m lib.workflow draft FILE``: proposes what makes an endpoint of a workflow; offline, no model is asked.

Of a graph in API format it drafts the YAML file that names its inputs, of a JavaScript or TypeScript workflow file
the Python file that succeeds it.
"""

import argparse
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import ServiceError
from lib.workflow.drafting.facts import Info
from lib.workflow.drafting.python_file import draft_python
from lib.workflow.drafting.writing import draft_inputs, read_info
from lib.workflow.endpoints.scan import SCRIPTS
from lib.workflow.template import TemplateError

INFO_PATH = "/object_info"
INFO_TIMEOUT_S = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 done, 1 done but for what is marked TODO, 2 not done."""
    parser = argparse.ArgumentParser(prog="python -m lib.workflow", description=__doc__)
    draft = parser.add_subparsers(required=True).add_parser("draft", help="propose the file that makes an endpoint")
    draft.add_argument("file", type=Path, help="a graph exported for the API (.json), or a workflow file in .ts or .js")
    draft.add_argument("--output", type=Path, help="where to write it; to the standard output when not given")
    draft.add_argument("--force", action="store_true", help="overwrite the output")
    draft.add_argument(
        "--object-info", metavar="FILE|URL", help="ComfyUI's /object_info, for its own types, ranges and texts"
    )
    options = parser.parse_args(argv)
    if options.output is not None and options.output.exists() and not options.force:
        return _refuse(f"{options.output} is there already; --force overwrites it")
    try:
        text, todo = _draft(options.file, options.object_info)
        if options.output is None:
            sys.stdout.write(text)
        else:
            options.output.write_text(text, encoding="utf-8")
            sys.stderr.write(f"{options.output} written; look it through.\n")
    except (TemplateError, ServiceError, UnicodeDecodeError) as error:
        return _refuse(f"{options.file}: {getattr(error, 'message', error)}")
    except OSError as error:
        return _refuse(str(error))
    for item in todo:
        sys.stderr.write(f"TODO {item}\n")
    return 1 if todo else 0


def _draft(file: Path, object_info: str | None) -> tuple[str, tuple[str, ...]]:
    if file.suffix.lower() in SCRIPTS:
        drafted = draft_python(file.read_text(encoding="utf-8"), file=file.name)
        return drafted.text, drafted.todo
    if file.suffix.lower() != ".json":
        raise TemplateError("expected a graph in API format (.json), or a workflow file in TypeScript or JavaScript")
    try:
        info = _info(object_info) if object_info else None
    except (TemplateError, ServiceError) as error:
        raise TemplateError(f"--object-info {object_info}: {error}") from None
    return draft_inputs(file.read_bytes(), file=file.name, info=info), ()


def _info(place: str) -> Info:
    """Read it from a file, or from a ComfyUI: its base URL will do."""
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https"):
        return read_info(Path(place).read_bytes())
    url = place if parts.path.strip("/") else place.rstrip("/") + INFO_PATH
    with urllib.request.urlopen(url, timeout=INFO_TIMEOUT_S) as answer:  # noqa: S310 - http or https, see above
        return read_info(answer.read())


def _refuse(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
