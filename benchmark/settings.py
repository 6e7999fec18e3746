"""Settings of the benchmark; the worker's own are in ``lib.settings``. An empty variable counts as unset."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError

from lib.settings import EnvironmentSettings, SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent


class BenchmarkSettings(EnvironmentSettings):
    """Which workflow is measured, how large, and for how long."""

    json_path: Path | None = Field(
        None, validation_alias="BENCHMARK_JSON_PATH", description="The operator's own workflow, API format."
    )
    test_width: int | None = Field(
        None, validation_alias="BENCHMARK_TEST_WIDTH", ge=16, le=16384, description="Pixels; 512, without a GPU 128."
    )
    test_height: int | None = Field(
        None, validation_alias="BENCHMARK_TEST_HEIGHT", ge=16, le=16384, description="Pixels; 512, without a GPU 128."
    )
    test_steps: int | None = Field(
        None, validation_alias="BENCHMARK_TEST_STEPS", ge=1, le=10000, description="Steps; 20, without a GPU 4."
    )
    budget_s: float = Field(
        90.0, validation_alias="BENCHMARK_BUDGET_S", gt=0, description="No run starts that would end after this."
    )
    run_timeout_s: float = Field(
        1800.0, validation_alias="BENCHMARK_RUN_TIMEOUT_S", gt=0, description="Longest single run, loading included."
    )
    warmup_prompt_file: Path | None = Field(
        None, validation_alias="WARMUP_PROMPT_FILE", description="Workflow of the warm-up run, instead of the measured."
    )
    warmup_prompt_url: SecretStr | None = Field(
        None,
        validation_alias="WARMUP_PROMPT_URL",
        description="The same by URL, read before ComfyUI starts, with HTTP_AUTH_HEADER_*; WARMUP_PROMPT_FILE wins.",
    )


def load_benchmark_settings() -> BenchmarkSettings:
    """Read the environment. Raises SettingsError that names each bad variable and what was expected."""
    try:
        return BenchmarkSettings()
    except ValidationError as error:
        lines = [f"{item['loc'][-1]}={item.get('input')!r}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None
