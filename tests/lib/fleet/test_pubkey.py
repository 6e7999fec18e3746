"""Public keys: from every address, with patience, again when needed."""

import asyncio

from lib.fleet.pubkey import FAILURES_TOLD, REFRESH_INTERVAL_S, PubkeySource
from lib.fleet.uplink import Uplink
from tests.fakes.autoscaler import Autoscaler, Behaviour, new_key
from tests.fakes.clock import FakeClock
from tests.fakes.pauses import PauseClock


async def test_the_key_is_loaded_from_each_address() -> None:
    """A comma list means several routers; each one's signatures count."""
    async with Autoscaler() as one, Autoscaler() as two, Uplink((one.url, two.url), clock=FakeClock()) as uplink:
        source = PubkeySource(uplink, clock=FakeClock())
        await source.load()
        assert source.keys == (one.key.public_key(), two.key.public_key())


async def test_one_dead_address_does_not_hide_the_other() -> None:
    """The address that answers is enough."""
    async with Autoscaler() as good, Uplink(("http://127.0.0.1:1", good.url), clock=FakeClock()) as uplink:
        source = PubkeySource(uplink, clock=FakeClock())
        await source.load()
        assert source.keys == (good.key.public_key(),)


async def test_loading_goes_on_until_the_router_answers() -> None:
    """Errors and dropped connections are retried with growing pauses; no key for long is told, and its end too."""
    clock, troubles = PauseClock(), list[str | None]()
    async with Autoscaler(behaviour=Behaviour(status=500)) as router, Uplink((router.url,), clock=clock) as uplink:
        source = PubkeySource(uplink, clock=clock, on_trouble=troubles.append)
        loading = asyncio.create_task(source.load())
        for round_count, pause_s in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0), start=1):
            await clock.asleep(round_count)
            assert clock.pauses[-1] == pause_s
            assert len(troubles) == (1 if round_count >= FAILURES_TOLD else 0)
            router.behaviour = Behaviour(drop=True) if round_count < 5 else Behaviour(status=502)
            if round_count == 7:
                router.behaviour = Behaviour()
            await clock.advance(pause_s)
        await asyncio.wait_for(loading, 60)
        assert f"{router.url}/pubkey/" in str(troubles[0])
        assert troubles[1:] == [None]
        assert source.keys == (router.key.public_key(),)


async def test_a_short_delay_of_the_router_is_no_trouble() -> None:
    """Worker and router start together: nothing is told before some rounds failed."""
    clock, troubles = PauseClock(), list[str | None]()
    async with Autoscaler(behaviour=Behaviour(status=500)) as router, Uplink((router.url,), clock=clock) as uplink:
        source = PubkeySource(uplink, clock=clock, on_trouble=troubles.append)
        loading = asyncio.create_task(source.load())
        await clock.asleep(1)
        router.behaviour = Behaviour()
        await clock.advance(1.0)
        await asyncio.wait_for(loading, 60)
        assert troubles == []


async def test_a_refresh_takes_the_new_key_once_in_a_while() -> None:
    """A rotated key is picked up; a flood of bad signatures costs one fetch."""
    clock = FakeClock()
    async with Autoscaler() as router, Uplink((router.url,), clock=clock) as uplink:
        source = PubkeySource(uplink, clock=clock)
        await source.load()
        router.key = new_key()
        await source.refresh()
        assert router.calls.count("pubkey") == 1, "too soon"
        await clock.advance(REFRESH_INTERVAL_S)
        await asyncio.gather(*(source.refresh() for _ in range(20)))
        assert router.calls.count("pubkey") == 2
        assert source.keys == (router.key.public_key(),)


async def test_a_key_that_is_the_same_stays_the_same_object() -> None:
    """What was verified under a key need not be verified again after an idle refresh."""
    clock = FakeClock()
    async with Autoscaler() as router, Uplink((router.url,), clock=clock) as uplink:
        source = PubkeySource(uplink, clock=clock)
        await source.load()
        before = source.keys
        await clock.advance(REFRESH_INTERVAL_S)
        await source.refresh()
        assert router.calls.count("pubkey") == 2
        assert source.keys is before


async def test_a_router_that_is_away_keeps_its_key_valid() -> None:
    """A failed refresh forgets nothing."""
    clock = FakeClock()
    async with Autoscaler() as router, Uplink((router.url,), clock=clock) as uplink:
        source = PubkeySource(uplink, clock=clock)
        await source.load()
        router.behaviour = Behaviour(status=503)
        await clock.advance(REFRESH_INTERVAL_S)
        await source.refresh()
        assert source.keys == (router.key.public_key(),)


async def test_without_addresses_there_is_nothing_to_load() -> None:
    """Standalone: no router, no key, no problem."""
    async with Uplink((), clock=FakeClock()) as uplink:
        source = PubkeySource(uplink, clock=FakeClock())
        await source.load()
        await source.refresh()
        assert source.keys == ()
