"""The page as people use it, in headless Chromium: filled, live, small, closed to strangers, and back after a loss."""

import asyncio

import pytest

from router.refusals import Refusal
from tests.fakes.router_world import ACCOUNT, KEY
from tests.router.page.browser import Tab
from tests.router.page.conftest import Build, House

LIVE = "document.querySelector('#link').dataset.state === 'live'"
TOO_WIDE = """[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().width > 0
    && !one.closest('.scroll, .unseen, .skip, thead')
    && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    .map((one) => one.outerHTML.slice(0, 120))"""


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').innerText"


async def nameless(tab: Tab) -> list[str]:
    """What a screen reader could only call by its kind."""
    kinds = ("button", "combobox", "dialog", "image", "link", "region", "search", "searchbox", "table", "textbox")
    nodes = (await tab.do("Accessibility.getFullAXTree"))["nodes"]
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in kinds]
    assert {"button", "combobox", "image", "searchbox", "table"} <= {node["role"]["value"] for node in shown}
    return [node["role"]["value"] for node in shown if not node["name"]["value"]]


async def busy(house: House) -> None:
    """A fleet in which every section has something to show."""
    await house.report(1, max_perf=200.0)
    await house.report(2, max_perf=120.0, models_warm=["drawing-xl.safetensors", "photo-v3.safetensors"])
    await house.report(3, error_msg="CUDA error: an illegal memory access was encountered " + "x" * 400)
    await house.report(4, endpoint="other", loadtime=0.0, max_perf=0.0)
    first = await house.give("101")
    await house.give("102")
    await house.failed("101", first)
    house.ground.core.metrics.desired("ep", capacity=300.0, workers=4)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (360, 740)])
async def test_every_section_is_filled_and_fits(house: House, tab: Tab, width: int, height: int) -> None:
    """On a desk and on a phone, with long texts of workers, by day and by night."""
    await busy(house)
    await tab.size(width, height, dark=width < 600)
    await tab.open(house.url + "/")
    await tab.until(f"{LIVE} && document.querySelectorAll('#rows tr').length === 4")
    assert await tab.look(text("#tile-ready")) == "2\nof 4"
    card = await tab.look(text("#endpoints .card"))
    for said in ("ep", "hybrid", "Load", "Expected wait", "Workers wanted", "4", "1 error"):
        assert said in card
    rows = await tab.look("[...document.querySelectorAll('#rows tr')].map((one) => one.innerText).join('|')")
    assert rows.index("illegal memory access") < rows.index("ep/1"), "who needs a look comes first"
    for said in ("RTX 4090", "$0.40/h", "photo-v3", "score 200", "1 of 2", "starting", "idle"):
        assert said in rows
    assert "#102" in await tab.look(text("#decisions"))
    assert "did not do a request" in await tab.look(text("#troubles"))
    assert "1 failed" in await tab.look(text("#counts"))
    assert await tab.look(TOO_WIDE) == []
    assert await tab.look("document.documentElement.scrollWidth <= innerWidth")
    assert await nameless(tab) == []
    assert (await tab.look("getComputedStyle(document.body).colorScheme")) == "light dark"


async def test_it_is_live(house: House, tab: Tab) -> None:
    """What happens is seen without a reload: a worker, a request, its end, and the worker's going."""
    await tab.open(house.url + "/")
    await tab.until(f"{LIVE} && {text('#no-worker')}.includes('No worker has reported yet')")
    await house.report(1)
    await tab.until("document.querySelectorAll('#rows tr').length === 1")
    await house.give("7")
    await tab.until(f"{text('#rows .work')}.includes('1 of 2') && {text('#decisions')}.includes('#7')")
    await house.done("7")
    await tab.until(f"{text('#rows .work')} === 'idle' && {text('#tile-done')}.startsWith('1')")
    await tab.until(f"{text('#rows td:last-child')}.includes('s ago')")
    await house.ground.dispatcher.drop("ep/1")
    await tab.until(f"!document.querySelector('#rows tr') && {text('#troubles')}.includes('is gone')")


async def test_a_request_that_nobody_can_do_is_seen(house: House, tab: Tab) -> None:
    """Without any worker: that it waits, and for what."""
    learning, clock = house.ground.dispatcher.learning, house.ground.clock
    ask = learning.ask("5", endpoint="ep", arrived_at=clock.monotonic(), cost=100.0, tenant="studio")
    await tab.open(house.url + "/")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(house.ground.dispatcher.assign(ask, wait_s=60))
        await tab.until(f"{LIVE} && {text('#queue')}.includes('#5')")
        assert await tab.look(text("#tile-waiting")) == "1\nno worker is ready for it"
        assert "no worker" in await tab.look(text("#endpoints .card"))
        await tab.click("#queue button")
        await tab.until(f"{text('#why-text')}.includes('worker')")
        waiting.cancel()


async def test_a_click_on_a_decision_explains_it(house: House, tab: Tab) -> None:
    """The candidates and their numbers; the keyboard opens and closes it too."""
    await house.report(1, max_perf=200.0)
    await house.report(2, max_perf=50.0)
    await house.give("31")
    await tab.size(1200, 800)
    await tab.open(house.url + "/")
    await tab.until("document.querySelector('#decisions button')")
    await tab.click("#decisions button")
    await tab.until(f"{text('#why-text')}.includes('ep/1 is expected to finish it first')")
    assert "ep/1 ✓" in await tab.look(text("#why-table"))
    assert "500 ms" in await tab.look(text("#why-table"))
    await tab.press("Escape", 27)
    await tab.until("!document.querySelector('#why').open")
    assert await tab.look("document.activeElement === document.querySelector('#decisions button')")
    await tab.press("Enter", 13)
    await tab.until("document.querySelector('#why').open")


async def test_a_router_that_is_not_open_asks_for_the_key(build: Build, tab: Tab) -> None:
    """Wrong ones and those of others are told so; the right one stays in the tab, never in the address."""
    house: House = await build(open_page=False)
    await house.report(1)
    await tab.open(house.url + "/")
    for key, said in (("no-such-key-0123456789", "not known here"), (KEY, "not the operator's"), (ACCOUNT, "")):
        await tab.until(
            "document.activeElement === document.querySelector('#key') && !document.querySelector('#key').value"
        )
        await tab.type(key)
        await tab.press("Enter", 13)
        await tab.until(
            f"{text('#refused')}.includes({said!r})" if said else f"{LIVE} && document.querySelector('#rows tr')"
        )
    assert await tab.look("location.href") == house.url + "/"
    await tab.reload()
    await tab.until(f"{LIVE} && document.querySelector('#rows tr')")
    assert all("401" in one or "403" in one for one in tab.complaints)
    tab.complaints.clear()


async def test_a_router_that_restarts_is_found_again(house: House, tab: Tab) -> None:
    """The loss is said, what was seen stays, and it is live again without a hand."""
    await house.report(1)
    await tab.open(house.url + "/")
    await tab.until(f"{LIVE} && document.querySelector('#rows tr')")
    await house.stop()
    await tab.until(f"{text('#link')}.startsWith('Connection lost')")
    assert await tab.look("document.querySelectorAll('#rows tr').length") == 1
    await house.start()
    await house.report(2)
    await tab.until(f"{LIVE} && {text('#rows')}.includes('ep/2')")
    lost = ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE")
    assert all(any(word in one for word in lost) for one in tab.complaints)
    tab.complaints.clear()


async def test_workers_are_found_in_a_large_fleet(house: House, tab: Tab) -> None:
    """Five hundred: the first sixty, more at a click, a word finds one, the silent are told apart."""
    for number in range(1, 501):
        await house.report(number, max_perf=float(number), gpu_name="H100" if number == 250 else "RTX 4090")
    await tab.open(house.url + "/")
    await tab.until("document.querySelectorAll('#rows tr').length === 60")
    assert "60 of 500" in await tab.look(text("#more"))
    await tab.click("#more button")
    await tab.until("document.querySelectorAll('#rows tr').length === 120")
    await tab.look("document.querySelector('[name=q]').focus()")
    await tab.type("h100")
    await tab.until(f"document.querySelectorAll('#rows tr').length === 1 && {text('#rows')}.includes('ep/250')")
    assert await tab.look(text("#workers-count")) == "1 of 500"
    await tab.look("(() => { const one = document.querySelector('[name=show]'); one.value = 'trouble';"
                   " one.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    await tab.until(f"{text('#no-worker')}.includes('No worker fits')")


async def test_a_store_that_is_down_is_said(house: House, tab: Tab) -> None:
    """And that it is back."""
    await tab.open(house.url + "/")
    await tab.until(LIVE)
    house.ground.core.link.down("The connection to redis was refused.")
    await tab.until(f"{text('#degraded')}.includes('redis was refused')")
    house.ground.core.link.up()
    await tab.until("document.querySelector('#degraded').hidden")


async def test_only_what_went_elsewhere_is_said_to_have(house: House, tab: Tab) -> None:
    """A request that went wrong in its worker may be bad itself, and nobody else got it."""
    for number in (1, 2, 3):
        await house.report(number)
    await house.failed("5", await house.give("5"))
    await tab.open(house.url + "/")
    await tab.until(f"{LIVE} && {text('#tile-failed')} === '1'")
    await house.failed("6", await house.give("6"), Refusal.FULL)
    await tab.until(f"{text('#tile-failed')} === '2\\n1 tried elsewhere'")


async def test_what_workers_say_is_text(house: House, tab: Tab) -> None:
    """Names, models and troubles are strangers' words."""
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    await house.report(1, gpu_name=evil, models_warm=[evil], error_msg=evil)
    await house.report(2, gpu_name=evil, models_warm=[evil])
    await house.failed("9", await house.give("9"), Refusal.FULL)
    await tab.open(house.url + "/")
    await tab.until(f"{text('#troubles')}.includes('turned a request away') && {text('#rows')}.includes('onerror')")
    assert await tab.look("document.title") == "Fleet"
    assert await tab.look("document.querySelectorAll('img, td script').length") == 0
