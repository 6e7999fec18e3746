"""lib.comfy.models.library: each model once, whole, under a name of its own, with the caller's own rights."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.index import Index
from lib.comfy.models.library import AT_ONCE, FRESH_S, Library, Limits, Obtained, Wish
from lib.comfy.ports import Folders
from lib.errors import InputFetchFailed, InvalidRequest, ServiceError, StorageFailed, UnsafeInput
from lib.jobs.model import Credential
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.reading import Reader
from lib.storage.sources import Sources
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.comfyui_models import ModelComfyUI, ModelHost, safetensors
from tests.fakes.engine_world import until
from tests.fakes.http_hosts import Names

FOLDERS = {"checkpoints": ("checkpoints",), "loras": ("loras",), "diffusion_models": ("unet", "diffusion_models")}
MODEL = safetensors(100_000)
BIG = safetensors(8_000_000)
"""More than what is on its way between two processes."""
DIGEST = hashlib.sha256(MODEL).hexdigest()


@dataclass
class Bench:
    """A library over real folders, a real host, and the record of what it told."""

    root: Path
    host: ModelHost
    comfyui: ModelComfyUI
    stack: AsyncExitStack
    now: float = 1000.0
    new: int = 0
    downloaded: list[tuple[str, str, int]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def library(
        self, *, quota_bytes: int = 0, max_bytes: int = 1 << 30, models_dir: Path | None = None, shared: bool = True
    ) -> Library:
        """A new one, as after a restart."""
        guard = AddressGuard(allow=("models.example",), lookup=Names(models_example=[["127.0.0.1"]]))
        guarded = await self.stack.enter_async_context(GuardedHttp(guard))
        http = await self.stack.enter_async_context(aiohttp.ClientSession())
        tasks = await self.stack.enter_async_context(Tasks())
        folders = Folders(output=self.root / "o", input=self.root / "i") if shared else None
        servers = [OwnedServer(self.comfyui.base_url, folders=folders)]
        self.index = Index(self.root / "models.json", quota_bytes=quota_bytes)

        def new() -> None:
            self.new += 1

        return Library(
            folders=ModelFolders(servers, http=http, models_dir=models_dir, timeout_s=5),
            reader=Reader(guarded, redirects=5),
            rights=Sources(settings=DeliverySettings(), guard=guard),
            index=self.index,
            limits=Limits(max_bytes=max_bytes, timeout_s=30),
            tasks=tasks,
            on_new=new,
            on_downloaded=lambda url, path, size, _: self.downloaded.append((url, path.name, size)),
            on_deleted=lambda url, path, size: self.deleted.append(path.name),
            now=lambda: self.now,
            retry_wait_s=0.0,
        )

    def wish(self, path: str, **options: Any) -> Wish:
        return Wish(url=self.host.url(path), field="f", **options)

    async def has_draft(self) -> bool:
        """Whether a transfer has written something."""
        return any(path.stat().st_size for path in (self.root / "models/loras").glob(".*.part"))

    def names(self, folder: str = "loras") -> list[str]:
        """All files in a folder, unfinished ones too."""
        return sorted(path.name for path in (self.root / "models" / folder).glob("*") if path.is_file())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    root = tmp_path / "models"
    comfyui = ModelComfyUI(root=root, folders=dict(FOLDERS))
    async with ModelHost(files={"/a/m.safetensors": MODEL}) as host, comfyui, AsyncExitStack() as stack:
        yield Bench(tmp_path, host, comfyui, stack)


async def test_a_model_comes_under_a_readable_name_of_its_content(bench: Bench) -> None:
    """In the folder that ComfyUI reads, whole, and nothing else is left there."""
    library = await bench.library()
    got = await library.obtain(bench.wish("/a/m.safetensors"), "loras", tell=bench.told.append)
    assert got.name == f"m-{DIGEST[:12]}.safetensors"
    assert (bench.root / "models/loras" / got.name).read_bytes() == MODEL
    assert bench.names() == [got.name] == bench.comfyui.listed("loras")
    assert bench.new == 1 and bench.told[-1] == "Downloading model m.safetensors: 100 %"
    assert bench.downloaded == [(bench.host.url("/a/m.safetensors"), got.name, len(MODEL))]


async def test_all_who_want_it_at_once_share_one_transfer(bench: Bench) -> None:
    """Whoever comes later hears how far it is."""
    bench.host.gate, bench.host.breaks_after = asyncio.Event(), 50_000
    library = await bench.library()
    jobs = [asyncio.create_task(library.obtain(bench.wish("/a/m.safetensors"), "loras"))]
    await bench.host.began.wait()
    late = asyncio.create_task(library.obtain(bench.wish("/a/m.safetensors"), "loras", tell=bench.told.append))
    jobs += [asyncio.create_task(library.obtain(bench.wish("/a/m.safetensors"), "loras")) for _ in range(5)]
    bench.host.gate.set()
    names = {got.name for got in await asyncio.gather(late, *jobs)}
    assert len(names) == 1 and len(bench.host.asked) == 1
    assert bench.told[-1].endswith("100 %")


async def test_the_last_one_who_leaves_ends_the_transfer(bench: Bench) -> None:
    """Nobody else's is ended, and what is there is resumed another time."""
    bench.host.gate, bench.host.breaks_after = asyncio.Event(), 50_000
    library = await bench.library()
    first, second = (asyncio.create_task(library.obtain(bench.wish("/a/m.safetensors"), "loras")) for _ in range(2))
    await bench.host.began.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not second.done() and len(bench.host.asked) == 1
    await until(bench.has_draft)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    bench.host.open()
    got = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert (bench.root / "models/loras" / got.name).read_bytes() == MODEL
    assert bench.names() == [got.name] and bench.host.statuses_given == [200, 206]


async def test_one_owners_many_models_keep_nobody_else_waiting(bench: Bench) -> None:
    """So many come for him at a time; another one's comes beside them. Who waits has stepped aside, and who has the
    model already has not."""
    bench.host.gate = asyncio.Event()
    library, paths = await bench.library(), [f"/m{number}.safetensors" for number in range(AT_ONCE + 1)]
    for path in (*paths, "/other.safetensors", "/here.safetensors"):
        bench.host.files[path] = MODEL + path.encode()
    aside: list[str] = []

    class Away:
        def __enter__(self) -> None:
            aside.append("went")

        def __exit__(self, *exc: object) -> None:
            aside.append("back")

    async def asked(count: int) -> None:
        async def so_many() -> bool:
            return len(bench.host.asked) >= count

        await until(so_many)

    greedy = [asyncio.create_task(library.obtain(bench.wish(path, owner="a"), "loras", aside=Away)) for path in paths]
    await asked(AT_ONCE)
    other = asyncio.create_task(library.obtain(bench.wish("/other.safetensors", owner="b"), "loras"))
    await asked(AT_ONCE + 1)
    assert len(bench.host.asked) == AT_ONCE + 1 and aside == ["went"] * len(greedy)
    bench.host.open()
    await asyncio.gather(other, *greedy)
    assert sorted(aside) == ["back"] * len(greedy) + ["went"] * len(greedy)
    await library.obtain(bench.wish(paths[0], owner="a"), "loras", aside=Away)
    assert len(aside) == 2 * len(greedy)


async def test_a_broken_transfer_goes_on_where_it_broke_off(bench: Bench) -> None:
    """With Range, as long as the source says that it is the same file."""
    bench.host.files["/a/m.safetensors"] = BIG
    bench.host.breaks, bench.host.breaks_after = 2, 700_000
    library = await bench.library()
    got = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert (bench.root / "models/loras" / got.name).read_bytes() == BIG
    assert bench.host.statuses_given == [200, 206, 206]
    begins = [int(asked.headers["Range"][len("bytes=") : -1]) for asked in bench.host.asked[1:]]
    assert 0 < begins[0] <= 700_000 < begins[1] <= 1_400_000


async def test_a_transfer_goes_on_after_a_restart(bench: Bench) -> None:
    """What is on disk counts, and is part of the digest."""
    bench.host.files["/a/m.safetensors"] = BIG
    bench.host.breaks, bench.host.breaks_after = 99, 700_000
    wish = bench.wish(f"/a/m.safetensors#sha256={hashlib.sha256(BIG).hexdigest()}")
    with pytest.raises(InputFetchFailed) as failed:
        await (await bench.library()).obtain(wish, "loras")
    assert failed.value.details["reason"] == "unreachable"
    bench.host.breaks = 0
    bench.host.asked.clear()
    got = await (await bench.library()).obtain(wish, "loras")
    assert (bench.root / "models/loras" / got.name).read_bytes() == BIG
    assert bench.host.statuses_given == [206]


@pytest.mark.parametrize("way", ["untagged", "rangeless", "changed"])
async def test_what_can_not_be_resumed_begins_anew(bench: Bench, way: str) -> None:
    """Parts of two files are never put together."""
    bench.host.breaks, bench.host.breaks_after = 1, 40_000
    bench.host.tagged, bench.host.ranges = way != "untagged", way != "rangeless"
    library = await bench.library()
    if way == "changed":
        bench.host.breaks, bench.host.gate = 0, asyncio.Event()
        going = asyncio.create_task(library.obtain(bench.wish("/a/m.safetensors"), "loras"))
        await bench.host.began.wait()
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        bench.host.open()
        bench.host.files["/a/m.safetensors"] = safetensors(100_000, seed=7)
    got = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert (bench.root / "models/loras" / got.name).read_bytes() == bench.host.files["/a/m.safetensors"]


async def test_a_model_that_is_here_is_not_fetched_again(bench: Bench) -> None:
    """Not within minutes; afterwards the source is asked whether it changed; after a restart too."""
    wish = bench.wish("/a/m.safetensors")
    library = await bench.library()
    first = await library.obtain(wish, "loras")
    await library.obtain(wish, "loras")
    assert bench.host.statuses_given == [200]
    bench.now += FRESH_S
    again = await (await bench.library()).obtain(wish, "loras")
    assert bench.host.statuses_given == [200, 304] and again.name == first.name
    assert len(bench.downloaded) == 1


async def test_what_changed_at_its_url_is_another_file(bench: Bench) -> None:
    """ComfyUI keeps what it loaded by name: another content needs another one."""
    library = await bench.library()
    first = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    bench.host.files["/a/m.safetensors"] = safetensors(50, seed=2)
    bench.now += FRESH_S
    second = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert first.name != second.name and len(bench.names()) == 2


async def test_a_source_that_is_down_gives_what_it_gave(bench: Bench) -> None:
    """Whoever could read it may use what is here; it is asked once, not six times."""
    library = await bench.library()
    first = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    bench.now += FRESH_S
    bench.host.statuses = [503]
    assert (await library.obtain(bench.wish("/a/m.safetensors"), "loras")).name == first.name
    assert bench.host.statuses_given == [200, 503]


async def test_one_content_of_two_urls_is_kept_once(bench: Bench) -> None:
    """Mirrors, and links that are signed anew each time; these are not even fetched again."""
    bench.host.files["/b/other.safetensors"] = MODEL
    library = await bench.library()
    names = [
        (await library.obtain(bench.wish(path), "loras")).name for path in ("/a/m.safetensors", "/b/other.safetensors")
    ]
    signed = [bench.wish(f"/a/m.safetensors?X-Amz-Signature={letter}&type=x") for letter in "ab"]
    names += [(await library.obtain(wish, "loras")).name for wish in signed]
    assert len(set(names)) == 1 and bench.names() == [names[0]]
    assert bench.host.statuses_given == [200, 200, 200, 304]


async def test_a_name_that_was_given_stays(bench: Bench) -> None:
    """Also when the same content comes from elsewhere, under the same name, for who wants another one."""
    bench.host.files["/b/m.safetensors"] = MODEL
    library = await bench.library()
    first = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    await library.obtain(bench.wish("/b/m.safetensors"), "loras", name="x.safetensors")
    assert bench.names() == sorted([first.name, "x.safetensors"])
    assert [name for _, name, _ in bench.downloaded] == [first.name, "x.safetensors"]


async def test_nobody_gets_what_only_another_ones_key_opens(bench: Bench) -> None:
    """It is here, and it is asked for with one's own rights."""
    bench.host.tokens["/a/m.safetensors"] = "Bearer good"
    pattern = "http://models.example**"
    good = Credential(kind="http", pattern=pattern, values={"Authorization": "Bearer good"})
    library = await bench.library()
    got = await library.obtain(bench.wish("/a/m.safetensors", credentials=(good,)), "loras")
    with pytest.raises(InputFetchFailed) as refused:
        await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert refused.value.details["status"] == 401 and "good" not in str(refused.value.details)
    assert (await library.obtain(bench.wish("/a/m.safetensors", credentials=(good,)), "loras")).name == got.name


async def test_the_same_model_in_another_folder_is_linked(bench: Bench) -> None:
    """No second transfer, no second copy on disk."""
    library = await bench.library()
    first = await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    second = await library.obtain(bench.wish("/a/m.safetensors"), "checkpoints")
    places = [bench.root / "models" / folder / first.name for folder in ("loras", "checkpoints")]
    assert first.name == second.name and places[0].samefile(places[1])
    assert len(bench.host.asked) == 1 and bench.new == 2


async def test_a_named_model_gets_its_name(bench: Bench) -> None:
    """Another file of that name, the operator's or another URL's, is never touched: the digest comes behind it."""
    other = safetensors(60, seed=3)
    bench.host.files["/b/m.safetensors"] = other
    bench.comfyui.put("loras", "own.safetensors")
    library = await bench.library()
    wishes = (
        ("/a/m.safetensors", "m.safetensors"),
        ("/b/m.safetensors", "m.safetensors"),
        ("/b/m.safetensors", "own.safetensors"),
    )
    names = [(await library.obtain(bench.wish(path), "loras", name=name)).name for path, name in wishes]
    digest = hashlib.sha256(other).hexdigest()[:12]
    assert names == ["m.safetensors", f"m-{digest}.safetensors", f"own-{digest}.safetensors"]
    folder = bench.root / "models/loras"
    assert (folder / "m.safetensors").read_bytes() == MODEL
    assert (folder / "own.safetensors").read_bytes() == b"the operator's own"


async def test_all_names_that_are_wanted_at_once_are_given(bench: Bench) -> None:
    """Of one transfer; each is the whole file, and there are no others."""
    library = await bench.library()
    names = ["one.safetensors", "two.safetensors", ""]
    wish = bench.wish("/a/m.safetensors")
    got = await asyncio.gather(*(library.obtain(wish, "loras", name=name) for name in names))
    assert len(bench.host.asked) == 1
    assert [one.name for one in got[:2]] == names[:2] and set(bench.names()) == {one.name for one in got}
    assert all((bench.root / "models/loras" / name).read_bytes() == MODEL for name in bench.names())


async def test_a_named_model_is_renewed_from_its_own_url(bench: Bench) -> None:
    """Whoever asks again for a file that changed there gets it under the name it had."""
    library = await bench.library()
    await library.obtain(bench.wish("/a/m.safetensors"), "loras", name="m.safetensors")
    bench.host.files["/a/m.safetensors"] = safetensors(len(MODEL) - 104, seed=9)
    bench.now += FRESH_S
    got = await library.obtain(bench.wish("/a/m.safetensors"), "loras", name="m.safetensors")
    assert got.name == "m.safetensors"
    assert (bench.root / "models/loras/m.safetensors").read_bytes() == bench.host.files["/a/m.safetensors"]


async def test_the_least_recently_used_go_over_the_quota(bench: Bench) -> None:
    """Neither what a job holds, nor what the operator put there."""
    for number in range(4):
        bench.host.files[f"/{number}.safetensors"] = safetensors(1000, seed=number)
    size = len(bench.host.files["/0.safetensors"])
    bench.comfyui.put("loras", "own.safetensors", bytes(10 * size))
    library = await bench.library(quota_bytes=2 * size + 50)
    held: list[Obtained] = []
    for number in range(4):
        bench.now += 1
        got = await library.obtain(bench.wish(f"/{number}.safetensors"), "loras")
        if number == 0:
            held.append(got)
        del got
    names = bench.names()
    assert [name.partition("-")[0] for name in names] == ["0", "3", "own.safetensors"]
    assert [name.partition("-")[0] for name in bench.deleted] == ["1", "2"]
    again = await library.obtain(bench.wish("/1.safetensors"), "loras")
    assert again.name in bench.names()


async def test_a_wrong_digest_is_refused(bench: Bench) -> None:
    """Nothing of it stays."""
    library = await bench.library()
    with pytest.raises(InputFetchFailed) as failed:
        await library.obtain(bench.wish(f"/a/m.safetensors#sha256={'0' * 64}"), "loras")
    assert failed.value.details["reason"] == "wrong_sha256" and bench.names() == []


async def test_a_known_digest_needs_no_question(bench: Bench) -> None:
    """Content that is pinned can't have changed for who has read it before."""
    library = await bench.library()
    wish = bench.wish(f"/a/m.safetensors#sha256={DIGEST.upper()}")
    await library.obtain(wish, "loras")
    bench.now += 10 * FRESH_S
    await library.obtain(wish, "loras")
    assert len(bench.host.asked) == 1


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_model_over_the_limit_is_refused(bench: Bench, tagged: bool) -> None:
    """By what the host says, or by what it sends."""
    library = await bench.library(max_bytes=50_000)
    if not tagged:
        bench.host.headers["/a/m.safetensors"] = {"Content-Encoding": "x-unknown"}
    with pytest.raises(InputFetchFailed, match="MODEL_MAX_BYTES") as failed:
        await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert failed.value.details["reason"] == "too_large" and bench.names() == []


@pytest.mark.parametrize(
    ("path", "content", "what"),
    [
        ("/x.safetensors", b"<!DOCTYPE html><html>log in</html>", "HTML"),
        ("/x.safetensors", b'{"error": "no such model"}', "JSON"),
        ("/x.safetensors", b"\x80\x02}q\x00.", "pickle"),
        ("/x.safetensors", MODEL[:4], "no safetensors"),
        ("/x.safetensors", MODEL[:40], "truncated"),
        ("/x.safetensors", b"", "empty"),
        ("/x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("/x.gguf", MODEL, "safetensors file"),
        ("/x.gguf", b"PK\x03\x04", "zip"),
        ("/x.ckpt", b'{"error": "no such model"}', "JSON"),
        ("/x", b"just something", "no kind of model"),
        ("/x.yaml", b"a\0b", "no text"),
    ],
)
async def test_what_is_no_model_is_refused(bench: Bench, path: str, content: bytes, what: str) -> None:
    """By its first bytes; nothing stays, and ComfyUI never sees it."""
    bench.host.files[path] = content
    library = await bench.library()
    with pytest.raises(InputFetchFailed, match=what) as failed:
        await library.obtain(bench.wish(path), "loras")
    assert failed.value.details["reason"] == "not_a_model" and bench.names() == []


@pytest.mark.parametrize(
    ("path", "headers", "suffix"),
    [
        (
            "/api/download/models/128713",
            {"Content-Disposition": 'attachment; filename="real.safetensors"'},
            "real-{}.safetensors",
        ),
        ("/v1.5", {"Content-Type": "application/x-safetensors"}, "v1.5-{}.safetensors"),
        ("/v1.5", {}, "v1.5-{}.safetensors"),
        ("/to/m.safetensors", {}, "m-{}.safetensors"),
        ("/moved", {}, "m-{}.safetensors"),
    ],
)
async def test_the_extension_is_found(bench: Bench, path: str, headers: dict[str, str], suffix: str) -> None:
    """In the URL, the disposition, the URL at the end of redirects, the type, or the content."""
    bench.host.files[path] = MODEL
    bench.host.headers[path] = headers
    bench.host.redirects["/moved"] = "/a/m.safetensors"
    library = await bench.library()
    got = await library.obtain(bench.wish(path), "loras")
    assert got.name == suffix.format(DIGEST[:12])


@pytest.mark.parametrize("path", ["/m.ckpt", "/m"])
async def test_formats_that_can_hold_code_are_for_some_callers(bench: Bench, path: str) -> None:
    """Told by the URL before anything is asked, or by content; and not from what another one brought either."""
    bench.host.files[path] = b"PK\x03\x04" + bytes(100)
    library = await bench.library()
    for _ in range(2):
        with pytest.raises(UnsafeInput, match="MODEL_PICKLES"):
            await library.obtain(bench.wish(path, pickles=False), "checkpoints")
    assert bench.names("checkpoints") == []
    got = await library.obtain(bench.wish(path), "checkpoints")
    assert got.name.endswith(".ckpt")
    with pytest.raises(UnsafeInput):
        await library.obtain(bench.wish(path, pickles=False), "checkpoints")


async def test_a_full_disk_is_said_before_anything_is_written(bench: Bench) -> None:
    """And is no fault of the source."""
    bench.host.headers["/a/m.safetensors"] = {"Content-Length": str(1 << 50)}
    library = await bench.library(max_bytes=1 << 60)
    with pytest.raises(StorageFailed, match="no room") as failed:
        await library.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert failed.value.details["field"] == "f" and bench.names() == []


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:1/m.safetensors", UnsafeInput),
        ("http://169.254.169.254/m.safetensors", UnsafeInput),
        ("s3://bucket/m.safetensors", InputFetchFailed),
        ("http://models.example:1/gone.safetensors", InputFetchFailed),
    ],
)
async def test_urls_that_can_not_be_read(bench: Bench, url: str, kind: type[ServiceError]) -> None:
    """Private addresses, buckets without keys, hosts that are down: each names the field."""
    library = await bench.library()
    with pytest.raises(kind) as failed:
        await library.obtain(Wish(url=url, field="f"), "loras")
    assert failed.value.details["field"] == "f" and bench.names() == []


async def test_the_folder_is_the_one_that_comfyui_names_so(bench: Bench) -> None:
    """Of several that it reads; MODEL_DIR decides among them."""
    library = await bench.library()
    await library.obtain(bench.wish("/a/m.safetensors"), "diffusion_models")
    assert len(bench.names("diffusion_models")) == 1 and bench.names("unet") == []


async def test_a_comfyui_elsewhere_needs_a_folder_by_name(bench: Bench) -> None:
    """Its disk is out of reach; MODEL_DIR is the operator's word that it is not."""
    far = await bench.library(shared=False)
    with pytest.raises(InvalidRequest, match="MODEL_DIR") as failed:
        await far.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert failed.value.details["reason"] == "no_file_access"
    mounted = await bench.library(shared=False, models_dir=bench.root / "models")
    await mounted.obtain(bench.wish("/a/m.safetensors"), "loras")
    assert len(bench.names()) == 1


@pytest.mark.parametrize("folder", ["custom_nodes", "../loras", "nothing"])
async def test_other_folders_are_no_model_folders(bench: Bench, folder: str) -> None:
    """Programs least of all."""
    library = await bench.library()
    with pytest.raises(InvalidRequest) as failed:
        await library.obtain(bench.wish("/a/m.safetensors"), folder)
    assert failed.value.details["reason"] == "unknown_model_type" and bench.host.asked == []


async def test_an_unreadable_record_costs_a_transfer(bench: Bench) -> None:
    """The file that is there is found again by its name."""
    wish = bench.wish("/a/m.safetensors")
    first = await (await bench.library()).obtain(wish, "loras")
    (bench.root / "models.json").write_text("{")
    again = await (await bench.library()).obtain(wish, "loras")
    assert again.name == first.name and bench.names() == [first.name]
