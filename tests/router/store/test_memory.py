"""What a router alone keeps in memory does not grow with time, only with what is there."""

from router.store.memory import SPARE, Kept


def test_what_is_over_is_forgotten() -> None:
    """The memory of it too, when something else is put."""
    kept: Kept[int] = Kept()
    for number in range(10):
        kept.put(str(number), number, until=number + 1, now=0)
    assert [kept.get("0", 0.9), kept.get("0", 1.0), kept.pop("9"), kept.pop("9")] == [0, None, 9, None]
    assert list(kept.values(5)) == [5, 6, 7, 8]
    kept.put("new", 1, until=100, now=50)
    assert len(kept) == 1


def test_putting_again_takes_no_room() -> None:
    """Whatever is kept, or was taken away, is not remembered by each time it was put."""
    kept: Kept[int] = Kept()
    for number in range(10_000):
        kept.put("same", number, until=number + 300, now=number)
        kept.put(f"gone {number}", number, until=number + 300, now=number)
        kept.pop(f"gone {number}")
        assert kept.spent <= SPARE + 4
    assert kept.get("same", 9_999) == 9_999
