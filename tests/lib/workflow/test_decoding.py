"""Bytes to checked JSON."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InvalidRequest
from lib.workflow.decoding import MAX_DEPTH, MAX_VALUES, check

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text("abc"), children, max_size=4),
    max_leaves=20,
)


def problem(data: object) -> dict[str, object]:
    """The one entry of the error list."""
    with pytest.raises(InvalidRequest) as caught:
        check(data)
    (entry,) = caught.value.details["errors"]  # type: ignore[misc]
    return entry  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1,]", b"\xff", b'{"a": NaN}', b"[Infinity]", b"[-Infinity]", b"1e999", b'"\\ud800"', b"[" * 5000],
)
def test_what_is_not_json_is_named_with_its_position(data: bytes) -> None:
    """Refuse bytes that are no JSON, NaN and Infinity among them."""
    entry = problem(data)
    assert entry["type"] == "json_invalid"
    assert isinstance(entry["loc"][0], int)  # type: ignore[index]


@pytest.mark.parametrize("number", [2**64, 2**64 + 1, -(2**63) - 1, 10**25, -(10**300)])
def test_integers_that_do_not_fit_are_refused_with_their_place(number: int) -> None:
    """A seed that no 64 bits hold is refused, not rounded."""
    entry = problem(b'{"input":{"seeds":[1,%d]}}' % number)
    assert entry["type"] == "number_out_of_range"
    assert entry["loc"] == ["input", "seeds", 1]


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_parsed_integers_are_checked_too(value: int) -> None:
    """The same rule holds for JSON that somebody else decoded."""
    assert problem({"seed": value})["loc"] == ["seed"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_parsed_floats_must_be_finite(value: float) -> None:
    """NaN that came by another decoder is refused."""
    assert problem([value])["type"] == "number_not_finite"


@pytest.mark.parametrize("data", [b"1e30", b"18446744073709551615", b"-9223372036854775808", b"1.5e308"])
def test_large_floats_and_the_extreme_integers_pass(data: bytes) -> None:
    """Only integers have the 64-bit limit."""
    assert check(data) == orjson.loads(data)


def test_depth_is_limited() -> None:
    """64 levels are fine, one more is refused."""
    assert check(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    assert problem(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))["type"] == "too_deep"


def test_too_many_values_are_refused_before_they_take_memory() -> None:
    """A long text is one value; a long list of nothing is refused without being decoded."""
    assert check(orjson.dumps(["x" * (2 * MAX_VALUES)]))
    assert problem(b"[" + b"[]," * MAX_VALUES + b"[]]")["type"] == "too_many_values"


def test_of_duplicate_keys_the_last_counts() -> None:
    """What is checked is what is used."""
    assert check(b'{"a":1,"a":2}') == {"a": 2}


def test_a_byte_order_mark_is_skipped() -> None:
    """Some shells put one before a file's content."""
    assert check(b"\xef\xbb\xbf{}") == {}


@given(json_values)
def test_any_json_comes_back_unchanged(value: object) -> None:
    """Checking changes nothing."""
    assert check(orjson.dumps(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_either_decode_or_are_refused(data: bytes) -> None:
    """No input makes another exception than InvalidRequest."""
    try:
        check(data)
    except InvalidRequest as error:
        assert error.details["errors"]
