"""The trace of a request."""

from lib.serving.trace_context import traceparent


def test_only_a_trace_context_is_one() -> None:
    """Whatever else stands there is dropped."""
    good = f"00-{'0' * 31}1-{'0' * 15}1-00"
    assert traceparent({"traceparent": good}) == good
    for bad in ("", "x", good + "-more", good.upper().replace("0", "G")):
        assert traceparent({"traceparent": bad}) is None
    assert traceparent({}) is None
