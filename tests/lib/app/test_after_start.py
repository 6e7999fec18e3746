"""What is brought beside the service: its outcome is told, and nothing depends on it."""

from pathlib import Path

from lib.app.after_start import AfterStart


class Scripted:
    """Brings nothing; looks at what is told meanwhile."""

    def __init__(self, *, wanted: bool = True, cause: str | None = None) -> None:
        self._wanted = wanted
        self._cause = cause
        self.seen: object = None
        self.after: AfterStart | None = None

    def wanted(self, workspace: Path) -> bool:
        return self._wanted

    async def bring(self, workspace: Path) -> str | None:
        assert self.after is not None
        self.seen = dict(self.after.health())
        return self._cause


async def told(tmp_path: Path, bringer: Scripted) -> object:
    bringer.after = AfterStart(bringer, workspace=tmp_path)
    assert bringer.after.health() == {}
    await bringer.after.run()
    return dict(bringer.after.health())


async def test_how_far_it_is_stands_in_the_health_document(tmp_path: Path) -> None:
    """While it lasts, and at its end with what is missing."""
    bringer = Scripted()
    assert await told(tmp_path, bringer) == {"after_start": {"done": True}}
    assert bringer.seen == {"after_start": {"done": False}}
    failed = await told(tmp_path, Scripted(cause="model a: gone"))
    assert failed == {"after_start": {"done": True, "error": "model a: gone"}}


async def test_where_there_is_nothing_to_bring_nothing_is_told(tmp_path: Path) -> None:
    """Also for a worker that knows of no provisioning."""
    assert await told(tmp_path, Scripted(wanted=False)) == {}
    alone = AfterStart(None, workspace=tmp_path)
    await alone.run()
    assert alone.health() == {}
