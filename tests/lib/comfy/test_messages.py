"""Reading socket messages: what is used, what is ignored, what is broken."""

import json
import struct

import pytest

from lib.comfy import messages as m

ID = "de5029f4-4432-4017-87f3-7a51019d5753"


def _text(kind: str, **data: object) -> str:
    return json.dumps({"type": kind, "data": {"prompt_id": ID, **data}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_text("execution_start", timestamp=1795223674983), m.Started(prompt_id=ID, at_ms=1795223674983)),
        (_text("execution_cached", nodes=["3", "4"]), m.Cached(prompt_id=ID, node_ids=("3", "4"))),
        (_text("executing", node="4.0.1", display_node="4"), m.NodeStarted(prompt_id=ID, node_id="4")),
        (_text("executing", node="4"), m.NodeStarted(prompt_id=ID, node_id="4")),
        (_text("executing", node=None), m.Ended(prompt_id=ID)),
        (_text("progress", node="3", value=1, max=4), m.NodeProgressed(prompt_id=ID, node_id="3", value=1, maximum=4)),
        (
            _text("executed", node="9.0.1", display_node="9", output={"text": ["a"]}),
            m.Reported(prompt_id=ID, node_id="9.0.1", shown_id="9", output={"text": ["a"]}),
        ),
        (_text("execution_success", timestamp=5), m.Succeeded(prompt_id=ID, at_ms=5)),
        (_text("execution_interrupted", node_id="2"), m.Interrupted(prompt_id=ID, node_id="2")),
        (
            json.dumps({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "c1"}}),
            m.QueueChanged(remaining=3),
        ),
    ],
)
def test_messages_that_are_used(text: str, expected: m.Message) -> None:
    """One type each, as 0.3.75 sends them."""
    assert m.parse_text(text) == expected


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (_text("progress_state", nodes={"3": "a prompt of somebody's"}), "progress_state"),
        ('{"type":"logs","data":{}}', "logs"),
        ('{"type": "crystools.monitor", "data": {}}', "crystools.monitor"),
        (struct.pack(">II", 4, 2) + b"{}", "binary 4"),
        ('["type"]', "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_trace_tells_the_type_and_nothing_else(frame: object, kind: str) -> None:
    """Of messages that are not used as well."""
    assert m.kind_of(frame) == kind


def test_an_error_keeps_what_happened_and_where() -> None:
    """Inputs are the caller's own, and go no further."""
    error = m.parse_text(
        _text(
            "execution_error",
            node_id="2",
            node_type="TFail",
            exception_type="ValueError",
            exception_message="boom\n",
            traceback=["/opt/x.py"],
            current_inputs={"image": ["secret"]},
            timestamp=7,
        )
    )
    assert error == m.Failed(
        prompt_id=ID,
        node_id="2",
        node_type="TFail",
        exception_type="ValueError",
        message="boom",
        at_ms=7,
        traceback=("/opt/x.py",),
    )
    assert isinstance(error, m.Failed) and not error.blocked


def test_a_blocked_branch_is_marked() -> None:
    """ExecutionBlocked is not the end of the prompt, and has no stamp."""
    error = m.parse_text(_text("execution_error", node_id="2", node_type="X", exception_type="ExecutionBlocked"))
    assert isinstance(error, m.Failed) and error.blocked and error.at_ms is None


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "progress_state", "data": {"this is": not even JSON',
        _text("executed", node="9", output=None),
        _text("somebody_elses"),
        '{"type": "progress", "data": {"value": NaN}}',
        '{"type": "executing", "data": {"node": "2"}}',
        '{"type": "status", "data": {"status": {}}}',
        _text("progress", value="x", max=None),
        "[]",
        '"text"',
        "not json",
        "",
    ],
)
def test_anything_else_is_ignored(text: str) -> None:
    """Unknown, foreign and broken messages; the big one is not even parsed."""
    assert m.parse_text(text) is None


def _frame(kind: int, facts: bytes, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(facts)) + facts + data


def test_a_picture_names_its_prompt_and_node() -> None:
    """Type 4, as negotiated."""
    facts = json.dumps({"node_id": "3.1", "display_node_id": "3", "prompt_id": ID, "image_type": "image/jpeg"}).encode()
    assert m.parse_picture(_frame(4, facts, b"\xff\xd8data")) == m.Picture(
        prompt_id=ID, node_id="3", mime_type="image/jpeg", data=b"\xff\xd8data"
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0\1",
        _frame(1, b"", b"jpeg"),
        _frame(4, b"{", b""),
        _frame(4, b"{}", b"x"),
        b"\0\0\0\4\xff\xff\xff\xff",
    ],
)
def test_other_binary_frames_are_ignored(frame: bytes) -> None:
    """Old previews, text, cut-off frames."""
    assert m.parse_picture(frame) is None


def test_values_of_other_shapes_are_no_error() -> None:
    """The reader of the socket must not end by one of them."""
    cached = m.parse_text('{"type": "execution_cached", "data": {"prompt_id": "p", "nodes": 5}}')
    assert isinstance(cached, m.Cached) and cached.node_ids == ()
    assert m.message_of("execution_success", {"prompt_id": "p", "timestamp": float("inf")}) == m.Succeeded(
        prompt_id="p", at_ms=None
    )
    head = b"[1, 2]"
    assert m.parse_picture(struct.pack(">II", 4, len(head)) + head + b"x") is None
