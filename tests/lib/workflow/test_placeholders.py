"""Random numbers in workflows."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.workflow.placeholders import TOKEN, fill, job_rng

strings = st.text(max_size=5) | st.sampled_from([TOKEN, f"a{TOKEN}b", f"{TOKEN}{TOKEN}", "_RANDOM_INT_"])
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | strings,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(strings, children, max_size=4),
    max_leaves=25,
)


class Counting(random.Random):
    """Draws 1, 2, 3, ..."""

    drawn = 0

    def getrandbits(self, k: int, /) -> int:
        assert k == 32
        self.drawn += 1
        return self.drawn


def test_a_whole_token_becomes_an_integer_in_range() -> None:
    """The string itself is replaced by a JSON integer of 32 bits."""
    drawn = [fill(TOKEN, rng=random.Random(seed)) for seed in range(200)]
    assert all(type(number) is int and 0 <= number <= 2**32 - 1 for number in drawn)
    assert len(set(drawn)) > 190


def test_the_whole_range_is_drawn_from() -> None:
    """Both ends are possible."""

    class Highest(random.Random):
        def getrandbits(self, k: int, /) -> int:
            return 2**k - 1

    assert fill(TOKEN, rng=Highest()) == 4294967295


def test_occurrences_in_one_string_share_a_draw_and_strings_are_independent() -> None:
    """One draw per string value."""
    assert fill([f"{TOKEN}-{TOKEN}", TOKEN, f"x{TOKEN}"], rng=Counting()) == ["1-1", 2, "x3"]


def test_any_depth_is_reached() -> None:
    """Values of objects and items of lists, however nested."""
    assert fill({"a": [{"b": [TOKEN]}]}, rng=Counting()) == {"a": [{"b": [1]}]}


@pytest.mark.parametrize("text", ["_RANDOM_INT_", "RANDOMINT", "__random_int__", "__RANDOM_INT_", "__Random_Int__"])
def test_lookalikes_stay(text: str) -> None:
    """Only the exact token counts."""
    assert fill(text, rng=Counting()) == text


def test_keys_and_other_types_stay() -> None:
    """Keys are never touched, nor are numbers, booleans and null."""
    value = {TOKEN: [1, 2.5, True, None]}
    assert fill(value, rng=Counting()) is value


def test_a_job_keeps_its_draws_and_shares_them_with_no_other() -> None:
    """Prepared again after a restart it is the same job; a benchmark's next run is another one."""
    graph = {"1": {"seed": TOKEN, "text": f"x{TOKEN}"}}
    first = fill(graph, rng=job_rng("job-1"))
    assert fill(graph, rng=job_rng("job-1")) == first
    others = [fill(graph, rng=job_rng(f"job-{number}"))["1"]["seed"] for number in range(2, 100)]
    assert len({first["1"]["seed"], *others}) == 99
    assert max(others) > 2**31


@given(trees)
def test_only_tokens_change(value: Any) -> None:
    """The shape stays, what holds no token is the same object, the input is not changed, no token is left."""
    before = repr(value)
    result = fill(value, rng=Counting())
    assert repr(value) == before
    assert_filled(value, result)


def assert_filled(old: Any, new: Any) -> None:
    """Compare a tree with its filled form."""
    match old:
        case str() if TOKEN in old:
            assert new == 0 or TOKEN not in str(new)
            assert isinstance(new, int if old == TOKEN else str)
        case dict():
            assert list(old) == list(new)
            assert (new is old) == (not holds_token(old))
            for key in old:
                assert_filled(old[key], new[key])
        case list():
            assert (new is old) == (not holds_token(old))
            for before, after in zip(old, new, strict=True):
                assert_filled(before, after)
        case _:
            assert new is old


def holds_token(value: Any) -> bool:
    """Whether a token is in any value below."""
    match value:
        case str():
            return TOKEN in value
        case dict():
            return any(map(holds_token, value.values()))
        case list():
            return any(map(holds_token, value))
    return False
