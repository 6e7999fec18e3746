"""Files as the caller wants them, before they go anywhere: converted, without metadata, with a thumbnail.

What comes of a file lies beside it under a longer name, so that clean-up takes it along; the file itself is never
touched, since ComfyUI's cache may hand it out again. Work is done in a few threads of low priority of our own.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

from lib.delivery.encoders import canonical
from lib.delivery.metadata import Stripped, strip
from lib.delivery.pieces import Malformed
from lib.jobs.model import DeliverySpec, Output, OutputKind
from lib.settings import DeliverySettings

log = logging.getLogger(__name__)
_NICE = 10


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


class Finisher:
    """Changes outputs as a delivery asks; an async context manager that owns its threads.

    ``folder`` takes what can't be written beside a file (a ComfyUI's folder that we may only read).
    """

    def __init__(
        self, *, settings: DeliverySettings, folder: Path, writable: Callable[[Path], bool] = _writable
    ) -> None:
        self._writable = writable
        self._max_pixels = settings.convert_max_pixels
        self._folder = folder
        self._threads = ThreadPoolExecutor(
            settings.convert_workers, thread_name_prefix="convert", initializer=_step_back
        )
        self._lock = threading.Lock()
        self._ready = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Start nothing more; a picture under way ends in its thread, by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def finish(self, job_id: str, wanted: DeliverySpec, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the outputs as they are to be delivered. One that can't be converted says so in ``error`` and stays
        as it was; what could not be done quite as asked is in ``warnings``."""
        if wanted.convert is None and wanted.thumbnail is None and wanted.keep_metadata is not False:
            return outputs
        loop = asyncio.get_running_loop()
        works = [
            loop.run_in_executor(self._threads, self._changed, output, wanted, job_id)
            for output in outputs
            if output.local_path
        ]
        done = iter(await asyncio.gather(*works))
        return tuple(next(done) if output.local_path else output for output in outputs)

    def _changed(self, output: Output, wanted: DeliverySpec, job_id: str) -> Output:
        try:
            return self._finished(output, wanted, job_id)
        except OSError as error:  # no folder to write to
            return replace(output, error=f"not finished: {error.strerror}")

    def _finished(self, output: Output, wanted: DeliverySpec, job_id: str) -> Output:
        path = Path(output.local_path)
        picture = output.kind is OutputKind.IMAGE
        done = output
        if picture and wanted.convert is not None:
            done = self._converted(output, wanted, self._beside(path, job_id, wanted.convert.format))
        if wanted.keep_metadata is False and done.local_path == output.local_path:
            done = _stripped(done, self._beside(path, job_id, f"bare{path.suffix}"))
        if picture and wanted.thumbnail is not None:
            extension = "jpg" if wanted.thumbnail.format in ("jpg", "jpeg") else "webp"
            done = self._with_thumbnail(done, path, wanted, self._beside(path, job_id, f"thumb.{extension}"))
        return done

    def _beside(self, path: Path, job_id: str, ending: str) -> Path:
        folder = path.parent
        if not self._writable(folder):
            folder = self._folder / job_id
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{path.name}.{ending}"

    def _converted(self, output: Output, wanted: DeliverySpec, target: Path) -> Output:
        self._load()
        from lib.delivery.convert import MIME_TYPES, convert
        from lib.delivery.vips import Unusable

        asked = wanted.convert
        if asked is None:
            return output
        try:
            done = convert(
                Path(output.local_path),
                target,
                format_=asked.format,
                options=asked.options,
                keep_metadata=wanted.keep_metadata is True,
                max_pixels=self._max_pixels,
            )
            size_bytes = target.stat().st_size
        except (Unusable, OSError) as error:
            log.warning("picture not converted", extra={"event": "convert.failed", "cause": str(error)})
            return replace(output, error=f"not converted to {asked.format}: {error}")
        return replace(
            output,
            filename=f"{output.filename.rpartition('.')[0] or output.filename}.{asked.format}",
            local_path=str(target),
            mime_type=MIME_TYPES[canonical(asked.format)],
            size_bytes=size_bytes,
            width=done.width,
            height=done.height,
            data_base64=None,
            warnings=output.warnings + asked.warnings + _named(output, done.warnings),
        )

    def _with_thumbnail(self, done: Output, path: Path, wanted: DeliverySpec, target: Path) -> Output:
        self._load()
        from lib.delivery.thumbnails import thumbnail
        from lib.delivery.vips import Unusable

        asked = wanted.thumbnail
        if asked is None:
            return done
        try:
            thumbnail(
                path,
                target,
                width=asked.width,
                height=asked.height,
                format_=asked.format,
                max_pixels=self._max_pixels,
            )
        except Unusable as error:
            return replace(done, warnings=done.warnings + _named(done, (f"no thumbnail: {error}",)))
        return replace(done, thumbnail_path=str(target))

    def _load(self) -> None:
        """Load libvips at the first picture; an idle worker does not pay for it."""
        with self._lock:
            if not self._ready:
                from lib.delivery import vips

                vips.set_up()
                self._ready = True


def _stripped(output: Output, target: Path) -> Output:
    if output.kind is OutputKind.TEXT:
        return output
    try:
        outcome = strip(Path(output.local_path), target, mime_type=output.mime_type)
        if outcome is Stripped.WRITTEN:
            size_bytes = target.stat().st_size
            return replace(output, local_path=str(target), size_bytes=size_bytes, data_base64=None)
    except (Malformed, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return replace(output, warnings=output.warnings + _named(output, (f"metadata not removed: {reason}",)))
    if outcome is Stripped.UNSUPPORTED:
        text = f"metadata not removed: not known how for {output.mime_type}"
        return replace(output, warnings=output.warnings + _named(output, (text,)))
    return output


def _named(output: Output, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{output.filename}: {text}" for text in texts)


def _step_back() -> None:
    """Let ComfyUI have the processor first; where the system has no priority per thread, go on without."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
