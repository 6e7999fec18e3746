"""What a router alone keeps in memory does not grow with time, only with what is there."""

import asyncio
import threading
from pathlib import Path

from lib.storage.vault import Vault
from router.ports import StoreDown
from router.store.memory import SPARE, Kept, MemoryState
from router.store.sqlite_file import SqliteFile
from tests.fakes.clock import FakeClock


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


async def test_nobody_waits_long_for_a_disk_that_stands_still(tmp_path: Path) -> None:
    """However many want a number at once, all wait as long as one; afterwards there are numbers again, none of them a
    second time."""
    clock, frozen = FakeClock(), threading.Event()
    file = await asyncio.to_thread(SqliteFile.open, tmp_path / "a.db", Vault(bytes(32)), now=clock.now())
    state = MemoryState(file, clock=clock, longest_s=1.0)
    before = await MemoryState(file, clock=clock).next_number("x")
    stuck = asyncio.ensure_future(file.run(lambda connection: frozen.wait()))
    begun = asyncio.get_running_loop().time()
    waiting = await asyncio.gather(*(state.next_number("x") for _ in range(50)), return_exceptions=True)
    assert [type(one) for one in waiting] == [StoreDown] * 50
    assert asyncio.get_running_loop().time() - begun < 30
    frozen.set()
    await stuck
    numbers = [await state.next_number("x") for _ in range(3)]
    assert len({before, *numbers}) == 4
    await state.close()
    await file.close()
