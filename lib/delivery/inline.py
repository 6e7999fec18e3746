"""Outputs as base64 inside the answer. Blocking: one call in a thread does all files of a job, one after the other."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib.jobs.model import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineCaps:
    """Largest single file and largest sum over one job, in bytes of the files."""

    file_bytes: int
    total_bytes: int


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


def inline_small(outputs: Sequence[Output], *, limit_bytes: int) -> tuple[Output, ...]:
    """Inline all files if together they are at most ``limit_bytes``, else none. For a thread that has just looked at
    them: ``OutputDelivery`` then needs no turn of a thread of its own, which is a good part of a tiny job's time."""
    if sum(output.size_bytes for output in outputs if output.local_path) > limit_bytes:
        return tuple(outputs)
    return inline_all(outputs, InlineCaps(file_bytes=limit_bytes, total_bytes=limit_bytes))


def rescue(outputs: Sequence[Output], caps: InlineCaps) -> tuple[Output, ...]:
    """Inline what could not be uploaded, as far as the caps allow; what does not fit keeps its ``local_path``."""
    failed = [output for output in outputs if output.upload_error]
    inlined = iter(inline_all(failed, caps))
    return tuple(replace(next(inlined), error=output.error) if output.upload_error else output for output in outputs)


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
        limit = caps.file_bytes
        return _with_error(output, f"file size {size} exceeds OUTPUT_BASE64_MAX_BYTES ({limit}); not inlined")
    if size > left:
        limit = caps.total_bytes
        text = f"file size {size} exceeds what is left of OUTPUT_BASE64_TOTAL_BYTES ({limit}); not inlined"
        return _with_error(output, text)
    try:
        return replace(output, data_base64=base64.b64encode(path.read_bytes()).decode("ascii"))
    except OSError as error:
        return _with_error(output, f"base64 inline failed: {error}")


def _with_error(output: Output, text: str) -> Output:
    """Say it after what is said already (a conversion that failed)."""
    return replace(output, error=f"{output.error}; {text}" if output.error else text)
