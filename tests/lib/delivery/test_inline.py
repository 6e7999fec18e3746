"""Base64 in the answer, within limits, in the API wrapper's words."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lib.delivery.inline import ANSWER_ROOM_BYTES, InlineCaps, inline_all, rescue, strand
from lib.jobs.model import Output, OutputKind
from tests.fakes.http_hosts import png

CAPS = InlineCaps(file_bytes=1000, total_bytes=1500)


def test_content_is_inlined(output: Callable[..., Output]) -> None:
    """Standard base64 of the very bytes; values that are no files are left alone."""
    text = Output(node_id="3", kind=OutputKind.TEXT, source_key="text", text="hello")
    picture, same = inline_all((output(), text), CAPS)
    assert base64.b64decode(picture.data_base64 or "", validate=True) == png()
    assert picture.error is None
    assert same is text


def test_what_is_too_large_is_said(output: Callable[..., Output]) -> None:
    """One file over its limit, and files over the job's sum, are named; smaller ones behind them still fit."""
    files = [output(f"{size}-{at}.bin", data=bytes(size)) for at, size in enumerate((1001, 1000, 600, 500, 1))]
    done = inline_all(files, CAPS)
    assert done[0].error == "file size 1001 exceeds OUTPUT_BASE64_MAX_BYTES (1000); not inlined"
    assert "OUTPUT_BASE64_TOTAL_BYTES (1500)" in (done[2].error or "")
    assert [bool(item.data_base64) for item in done] == [False, True, False, True, False]


def test_an_empty_file_is_inlined_as_such(output: Callable[..., Output]) -> None:
    """No content is content too."""
    assert inline_all([output(data=b"")], CAPS)[0].data_base64 == ""


def test_a_missing_file_is_said(output: Callable[..., Output]) -> None:
    """The text is the wrapper's."""
    gone = output()
    Path(gone.local_path).unlink()
    assert inline_all([gone], CAPS)[0].error == f"local file missing: {gone.local_path}"


def test_a_folder_is_no_file(output: Callable[..., Output], tmp_path: Path) -> None:
    """What can't be read is an error on the entry, never an exception."""
    done = inline_all(
        [replace(output(), local_path=str(tmp_path))], InlineCaps(file_bytes=1 << 20, total_bytes=1 << 20)
    )
    assert (done[0].error or "").startswith("base64 inline failed: ")


def test_a_failed_upload_is_rescued(output: Callable[..., Output]) -> None:
    """What was not uploaded is inlined if it fits; what does not fit keeps its path and gets no second error."""
    good = replace(output("a.png"), url="u")
    small = replace(output("b.png"), upload_error="why")
    large = replace(output("c.bin", data=bytes(2000)), upload_error="why")
    one, two, three = rescue((good, small, large), CAPS)
    assert (one.data_base64, two.upload_error, three.data_base64, three.error) == (None, "why", None, None)
    assert base64.b64decode(two.data_base64 or "") == png()
    assert three.local_path == large.local_path


def test_caps_for_large_files(output: Callable[..., Output]) -> None:
    """A single file may take all that a job may; the setting for that is the one that is told."""
    fitting, over = inline_all([output("a.bin", data=bytes(1400)), output("b.bin", data=bytes(200))], CAPS.for_large())
    assert (len(base64.b64decode(fitting.data_base64 or "")), fitting.error) == (1400, None)
    assert over.data_base64 is None and "OUTPUT_BASE64_TOTAL_BYTES (1500)" in (over.error or "")
    (alone,) = inline_all([output(data=bytes(1501))], CAPS.for_large())
    assert alone.error == "file size 1501 exceeds OUTPUT_BASE64_TOTAL_BYTES (1500); not inlined"


def test_caps_that_an_answer_sets(output: Callable[..., Output]) -> None:
    """All base64 of a job fits into the answer; what does not is told with the setting that says so; narrower caps
    stay."""
    caps = InlineCaps(file_bytes=1 << 20, total_bytes=1 << 30).within(1 << 20, "RUNPOD_MAX_RESULT_BYTES")
    assert caps.file_bytes == caps.total_bytes == ((1 << 20) - ANSWER_ROOM_BYTES) * 3 // 4
    (large,) = inline_all([output(data=bytes(caps.total_bytes + 1))], caps)
    assert (large.error or "").endswith(f"exceeds RUNPOD_MAX_RESULT_BYTES ({caps.total_bytes}); not inlined")
    (fitting,) = inline_all([output(data=bytes(caps.total_bytes))], caps)
    assert len(fitting.data_base64 or "") <= (1 << 20) - ANSWER_ROOM_BYTES
    assert CAPS.within(1 << 20, "RUNPOD_MAX_RESULT_BYTES") == CAPS
    assert CAPS.within(1, "RUNPOD_MAX_RESULT_BYTES").total_bytes == 0


def test_a_file_that_nobody_gets(output: Callable[..., Output], tmp_path: Path) -> None:
    """What helps is said after why; not of files that came some way, and not of files that are not there."""
    large = replace(output("a.png"), error="too large")
    linked, inside = replace(large, url="https://h/a.png"), replace(large, data_base64="AAAA")
    gone = replace(large, local_path=str(tmp_path / "gone"))
    told, *same = strand((large, linked, inside, gone))
    assert (told.error or "").startswith("too large; it stays on the worker")
    assert "BUCKET_ENDPOINT_URL" in (told.error or "")
    assert same == [linked, inside, gone]
