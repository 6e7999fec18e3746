"""Which workers a fleet can do without."""

from router.choose.packing import spare_workers
from tests.router.choose.fleet import worker


def test_the_worst_per_dollar_is_spared_first() -> None:
    """As many as leave the target's headroom."""
    views = [worker("good", 100, price=0.1), worker("fair", 100, price=0.2), worker("bad", 100, price=0.9)]
    assert spare_workers(views, rate=100.0, target=0.9) == {"bad"}
    assert spare_workers(views, rate=80.0, target=0.9) == {"bad", "fair"}
    assert spare_workers(views, rate=200.0, target=0.9) == frozenset()


def test_own_machines_are_never_spared() -> None:
    """What costs nothing is not released."""
    assert spare_workers([worker("own", 100), worker("rented", 100, price=0.1)], rate=0.0, target=0.9) == {"rented"}
