"""Outputs as base64 inside the answer. Blocking: one call in a thread does all files of a job, one after the other."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib.jobs.copies import changed
from lib.jobs.model import Output

ANSWER_ROOM_BYTES = 64 * 1024
STRANDED = (
    "it stays on the worker, which can't be asked for it; for large files the worker needs a bucket that takes them: "
    "S3_BUCKET_NAME or BUCKET_ENDPOINT_URL, with keys"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineCaps:
    """Largest single file and largest sum over one job, in bytes of the files, and the settings that say so."""

    file_bytes: int
    total_bytes: int
    file_name: str = "OUTPUT_BASE64_MAX_BYTES"
    total_name: str = "OUTPUT_BASE64_TOTAL_BYTES"

    def for_large(self) -> "InlineCaps":
        """Return the same without a limit of its own for a single file."""
        return replace(self, file_bytes=self.total_bytes, file_name=self.total_name)

    def within(self, answer_bytes: int, name: str) -> "InlineCaps":
        """Return caps under which all of a job's base64 fits into an answer of so many bytes, the setting ``name``,
        with some room for what else it says."""
        room = max(answer_bytes - ANSWER_ROOM_BYTES, 0) // 4 * 3
        total, total_name = min((self.total_bytes, self.total_name), (room, name))
        file, file_name = min((self.file_bytes, self.file_name), (room, name))
        return InlineCaps(file_bytes=file, total_bytes=total, file_name=file_name, total_name=total_name)


def inline_all(outputs: Sequence[Output], caps: InlineCaps) -> tuple[Output, ...]:
    """Put each file's content into its entry, or the reason why not into ``error`` (the API wrapper's texts)."""
    left = caps.total_bytes
    done: list[Output] = []
    for output in outputs:
        if output.local_path:
            output = _inline(output, caps, left)
            left -= _decoded_bytes(output.data_base64 or "")
        done.append(output)
    return tuple(done)


def _decoded_bytes(text: str) -> int:
    return len(text) * 3 // 4 - text[-2:].count("=")


def rescue(outputs: Sequence[Output], caps: InlineCaps) -> tuple[Output, ...]:
    """Inline what could not be uploaded, as far as the caps allow; what does not fit keeps its ``local_path``."""
    failed = [output for output in outputs if output.upload_error]
    inlined = iter(inline_all(failed, caps))
    return tuple(replace(next(inlined), error=output.error) if output.upload_error else output for output in outputs)


def unreached(output: Output) -> bool:
    """Whether a file comes to its caller in no way at all."""
    return bool(output.local_path) and output.url is None and output.data_base64 is None


def strand(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """Say of files that come to their caller in no way at all what would help."""
    return tuple(
        _with_error(output, STRANDED) if unreached(output) and Path(output.local_path).is_file() else output
        for output in outputs
    )


def inline_thumbnails(outputs: Sequence[Output], caps: InlineCaps, *, all_: bool) -> tuple[Output, ...]:
    """Inline thumbnails that have no URL, or ``all_`` of them; they are small, and one that is not stays out."""
    return tuple(
        replace(output, thumbnail_base64=_small(output, caps))
        if output.thumbnail_path and (all_ or output.thumbnail_url is None)
        else output
        for output in outputs
    )


def _small(output: Output, caps: InlineCaps) -> str | None:
    plain = replace(output, local_path=output.thumbnail_path, error=None)
    return _inline(plain, caps, caps.total_bytes).data_base64


def _inline(output: Output, caps: InlineCaps, left: int) -> Output:
    path = Path(output.local_path)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return _with_error(output, f"local file missing: {path}")
    except OSError as error:
        return _with_error(output, f"stat failed: {error}")
    if size > caps.file_bytes:
        return _with_error(output, f"file size {size} exceeds {caps.file_name} ({caps.file_bytes}); not inlined")
    if size > left:
        text = f"file size {size} exceeds what is left of {caps.total_name} ({caps.total_bytes}); not inlined"
        return _with_error(output, text)
    try:
        return changed(output, data_base64=base64.b64encode(path.read_bytes()).decode("ascii"))
    except OSError as error:
        return _with_error(output, f"base64 inline failed: {error}")


def _with_error(output: Output, text: str) -> Output:
    """Say it after what is said already (a conversion that failed), once: a result is made anew for each who asks."""
    if not output.error:
        return replace(output, error=text)
    return output if text in output.error else replace(output, error=f"{output.error}; {text}")
