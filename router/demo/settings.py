"""What of the demo can be chosen, and what it plays with."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from lib.settings import EnvironmentSettings, SettingsError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A worker's GPU; ``speed`` is steps a second at 512x512, ``price`` dollars an hour."""

    number: int
    name: str
    group: str
    speed: float
    price: float


CARDS = (
    Card(number=1, name="RTX 4090", group="rtx4090", speed=21.5, price=0.40),
    Card(number=2, name="RTX 3090", group="rtx3090", speed=14.5, price=0.22),
    Card(number=3, name="RTX 3060", group="rtx3060", speed=6.4, price=0.10),
)
"""Medians of public SD 1.5 benchmarks, 512x512."""
MODELS = ("photo-v3.safetensors", "drawing-xl.safetensors")
ENDPOINT = "images"
TENANTS = ("studio", "hobby")
BENCHMARK_STEPS = 10
"""The benchmark of the demo's workers, at 512x512: what a hundred units of work are."""


class DemoSettings(EnvironmentSettings):
    """Variables of the demo."""

    seconds: float | None = Field(
        None, validation_alias="DEMO_SECONDS", gt=0, description="It ends after so long; until Ctrl-C when unset."
    )
    port: int = Field(
        8080, validation_alias="DEMO_PORT", ge=0, le=65535, description="The router's port; a free one if it is taken."
    )
    folder: Path = Field(ROOT / "var" / "demo", validation_alias="DEMO_DIR", description="Logs and state are below it.")
    load: float = Field(
        0.7,
        validation_alias="DEMO_LOAD",
        gt=0,
        le=3,
        description="Work that comes in, over what can be done.",
    )


def load_demo_settings() -> DemoSettings:
    """Read the environment. Raises: SettingsError with a line for each bad variable."""
    try:
        return DemoSettings()
    except ValidationError as error:
        lines = [f"{item['loc'][-1]}={item.get('input')!r}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None
