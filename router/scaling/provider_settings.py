"""How the operator says where a group's workers come from (``provider`` of a group)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Environment = dict[str, str]


class _Provider(BaseModel):
    """``env`` goes into the environment of each worker, beside what makes it one of the group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: Environment = Field(default_factory=dict, repr=False)


class LocalProvider(_Provider):
    """Processes of this machine. ``places``: how many there may be, or the environment of each (a GPU of its own, say).

    ``command`` starts one, in ``folder``, and drains it on SIGTERM; ``{id}``, ``{place}`` and ``{port}`` in ``env`` are
    filled in. ``keep_running``: workers outlive the router, and the next one takes them over.
    """

    kind: Literal["local"]
    command: tuple[str, ...] = Field(("./start_server.sh",), min_length=1)
    folder: str = ""
    places: Annotated[int, Field(ge=1, le=1024)] | tuple[Environment, ...] = 1
    address: str = "127.0.0.1"
    drain_time: float = Field(120.0, ge=0, allow_inf_nan=False)
    keep_running: bool = False

    @property
    def each(self) -> tuple[Environment, ...]:
        """The environments of the places."""
        return ({},) * self.places if isinstance(self.places, int) else self.places


class CommandProvider(_Provider):
    """A program of the operator's; see ``router.scaling.command``. ``options`` are handed on to it."""

    kind: Literal["command"]
    command: tuple[str, ...] = Field(min_length=1)
    options: dict[str, str | float | bool] = Field(default_factory=dict)
    timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    list_every: float = Field(15.0, ge=1, allow_inf_nan=False)
    keeps_stopped: bool = False


class VastProvider(_Provider):
    """Instances at Vast.ai, made of a template or an image. ``search_params`` are those of a worker group there."""

    kind: Literal["vast"]
    search_params: str = Field("verified=true rentable=true num_gpus=1", min_length=1)
    order: str = "dlperf_per_dphtotal-"
    template_hash: str = ""
    image: str = ""
    onstart: str = ""
    disk: float = Field(40.0, gt=0, allow_inf_nan=False)
    max_price: float | None = Field(None, gt=0)
    bid_price: float | None = Field(None, gt=0)
    timeout: float = Field(180.0, gt=0, allow_inf_nan=False)
    list_every: float = Field(30.0, ge=1, allow_inf_nan=False)
    keeps_stopped: bool = True


ProviderSettings = Annotated[LocalProvider | CommandProvider | VastProvider, Field(discriminator="kind")]
