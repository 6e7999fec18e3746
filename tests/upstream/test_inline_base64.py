"""Base64 in a result's entries, as a client of the API wrapper reads it."""

import base64
from pathlib import Path
from typing import Any

from lib.delivery.inline import InlineCaps, inline_all
from lib.dialects.wrapper.render import render
from lib.jobs.model import Output, OutputKind
from tests.upstream.stand_ins import DONE

CAPS = InlineCaps(file_bytes=1000, total_bytes=10_000)
DATA = bytes(range(256))


def saved(path: Path, data: bytes = DATA) -> Output:
    path.write_bytes(data)
    return Output(
        node_id="9",
        kind=OutputKind.IMAGE,
        source_key="images",
        filename=path.name,
        local_path=str(path),
        mime_type="image/png",
        size_bytes=len(data),
    )


def entries(*outputs: Output) -> list[dict[str, Any]]:
    """What the result shows of them once they are inlined."""
    result = render(DONE.with_(outputs=inline_all(outputs, CAPS)), include_response=False)
    shown: list[dict[str, Any]] = result["output"]
    return shown


def test_content_comes_back_exactly(tmp_path: Path) -> None:
    """Standard base64 of the very bytes, its type, and no error."""
    (entry,) = entries(saved(tmp_path / "a.png"))
    assert base64.b64decode(entry["data"], validate=True) == DATA
    assert entry["mimetype"] == "image/png"
    assert "error" not in entry


def test_a_file_over_the_cap_is_left_out_and_the_others_come(tmp_path: Path) -> None:
    """Its entry says why."""
    big, small = entries(saved(tmp_path / "big.png", bytes(1001)), saved(tmp_path / "small.png"))
    assert "exceeds" in big["error"] and "data" not in big
    assert "data" in small and "error" not in small


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """The job stays completed."""
    gone = saved(tmp_path / "gone.png")
    Path(gone.local_path).unlink()
    (entry,) = entries(gone)
    assert "missing" in entry["error"] and "data" not in entry


def test_no_outputs_stay_none() -> None:
    """Nothing to do."""
    assert entries() == []


def test_entries_without_a_local_path_are_left_alone(tmp_path: Path) -> None:
    """There is no file of ours behind them."""
    elsewhere = Output(
        node_id="3", kind=OutputKind.IMAGE, source_key="images", filename="x.png", error="it does not exist"
    )
    before, after = entries(elsewhere, saved(tmp_path / "a.png"))
    assert (before["error"], "data" in before) == ("it does not exist", False)
    assert "data" in after
