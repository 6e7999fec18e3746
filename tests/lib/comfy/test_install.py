"""lib.comfy.install: what is started and with which flags and folders."""

import sys
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from lib.comfy.install import Install, parse_args, plan, read_install
from lib.errors import EngineUnreachable
from lib.settings import EngineSettings, SettingsError
from tests.fakes.process_comfyui import make_install


def write_record(workspace: Path, root: Path, changed: dict[str, str] | None = None) -> None:
    record = {"python": sys.executable, "root": str(root), "env": {"A": "1"}, "device": "cpu", "version": "0.3.75"}
    (workspace / "comfyui.json").write_bytes(orjson.dumps(record | (changed or {})))


def test_the_record_tells_what_to_start(tmp_path: Path) -> None:
    """Interpreter, folder, variables and device come from provisioning's record."""
    root = make_install(tmp_path / "ComfyUI")
    write_record(tmp_path, root)
    install = read_install(EngineSettings(workspace=tmp_path))
    assert (install.root, install.env, install.device) == (root, {"A": "1"}, "cpu")


def test_an_install_path_wins_over_a_record_of_another_folder(tmp_path: Path) -> None:
    """Its own virtual environment is found."""
    write_record(tmp_path, make_install(tmp_path / "ComfyUI"))
    mine = make_install(tmp_path / "mine")
    python = mine / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    install = read_install(EngineSettings(workspace=tmp_path, install_path=mine))
    assert (install.root, install.python) == (mine, python)


@pytest.mark.parametrize("gone", ["python", "root"])
def test_a_record_of_something_that_has_gone_counts_for_nothing(tmp_path: Path, gone: str) -> None:
    """The error says what to do."""
    write_record(tmp_path, make_install(tmp_path / "ComfyUI"), {gone: "/nowhere"})
    with pytest.raises(EngineUnreachable, match=r"start_server\.sh"):
        read_install(EngineSettings(workspace=tmp_path))


def test_a_broken_record_stops_the_start(tmp_path: Path) -> None:
    """It is named, with the way out."""
    (tmp_path / "comfyui.json").write_text('{"python": 1}')
    with pytest.raises(SettingsError, match=r"comfyui\.json"):
        read_install(EngineSettings(workspace=tmp_path))


def test_a_folder_without_comfyui_is_refused(tmp_path: Path) -> None:
    """The variable, its value and what was expected are in the message."""
    with pytest.raises(EngineUnreachable, match=r"COMFYUI_INSTALL_PATH=.*main\.py"):
        read_install(EngineSettings(workspace=tmp_path, install_path=tmp_path))


def flags_of(
    tmp_path: Path, *, device: str | None = None, install_device: str = "cpu", **settings: object
) -> list[str]:
    root = tmp_path / "ComfyUI"
    if not root.exists():
        make_install(root)
    install = Install(python=Path(sys.executable), root=root, device=install_device)
    launch = plan(EngineSettings(workspace=tmp_path, **settings), install, number=2, device=device)
    return list(launch.command(18188))


def test_each_process_has_its_own_temp_user_and_database(tmp_path: Path) -> None:
    """ComfyUI wipes its temp folder at start and locks its database: none may be shared."""
    flags = flags_of(tmp_path)
    assert flags[flags.index("--temp-directory") + 1] == str(tmp_path / "temp" / "comfyui-2")
    assert flags[flags.index("--user-directory") + 1] == str(tmp_path / "user" / "comfyui-2")
    assert flags[flags.index("--database-url") + 1].endswith("/user/comfyui-2/comfyui.db")
    assert flags[flags.index("--output-directory") + 1] == str(tmp_path / "output")
    assert {"--cpu", "--disable-auto-launch", "--disable-metadata", "--disable-api-nodes"} <= set(flags)


def test_what_the_operator_wants_differently(tmp_path: Path) -> None:
    """Metadata in files and paid nodes are a choice; a GPU by index is a flag."""
    flags = flags_of(tmp_path, device="3", install_device="cuda", embed_metadata=True, allow_api_nodes=True)
    assert flags[flags.index("--cuda-device") + 1] == "3"
    assert not {"--cpu", "--disable-metadata", "--disable-api-nodes"} & set(flags)


def test_previews_are_made_only_when_they_are_wanted(tmp_path: Path) -> None:
    """They cost GPU time."""
    assert "--preview-method" not in flags_of(tmp_path)
    flags = flags_of(tmp_path, preview_method="latent2rgb")
    assert flags[flags.index("--preview-method") + 1] == "latent2rgb"


def test_a_key_for_partner_nodes_enables_them(tmp_path: Path) -> None:
    """It would be of no use otherwise; it is on no command line."""
    flags = flags_of(tmp_path, comfy_org_api_key=SecretStr("comfyui-key"))
    assert "--disable-api-nodes" not in flags and "comfyui-key" not in str(flags)


@pytest.mark.parametrize(
    ("level", "flag"),
    [("INFO", None), ("info", None), ("debug", "DEBUG"), ("ERROR", "ERROR"), ("WARN", "WARNING"), ("NOTSET", "DEBUG")],
)
def test_the_log_level_is_one_that_comfyui_knows(tmp_path: Path, level: str, flag: str | None) -> None:
    """Its own choice needs no flag."""
    make_install(tmp_path / "ComfyUI", flags=("--verbose",))
    flags = flags_of(tmp_path, log_level=level)
    assert (flags[flags.index("--verbose") + 1] if "--verbose" in flags else None) == flag


def test_lists_of_model_folders_are_handed_on_after_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whole paths: ComfyUI runs in its own folder. One that is not there stops the start."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extra.yaml").write_text("a: {}")
    flags = flags_of(tmp_path, extra_model_paths=("extra.yaml",))
    at = flags.index("--extra-model-paths-config")
    assert flags[at + 1].endswith("pyworker_paths.yaml") and flags[at + 2] == str(tmp_path / "extra.yaml")
    with pytest.raises(
        SettingsError, match=r"COMFYUI_EXTRA_MODEL_PATHS=extra\.yaml,gone\.yaml: .*gone\.yaml is no file"
    ):
        flags_of(tmp_path, extra_model_paths=("extra.yaml", "gone.yaml"))


def test_lists_that_provisioning_made_are_handed_on_as_long_as_they_are_there(tmp_path: Path) -> None:
    """A network volume's folders; a list that is gone is passed over: the next start of the host makes it anew."""
    volume, gone = tmp_path / "volume.yaml", tmp_path / "gone.yaml"
    volume.write_text("a: {}")
    root = make_install(tmp_path / "ComfyUI")
    install = Install(python=Path(sys.executable), root=root, extra_model_paths=(str(volume), str(gone)))
    flags = plan(EngineSettings(workspace=tmp_path), install, number=1).flags
    at = flags.index("--extra-model-paths-config")
    assert flags[at + 2] == str(volume) and str(gone) not in flags


def test_a_gpu_by_uuid_is_a_variable(tmp_path: Path) -> None:
    """``--cuda-device`` takes numbers only."""
    install = Install(python=Path(sys.executable), root=make_install(tmp_path / "ComfyUI"), device="cuda")
    launch = plan(EngineSettings(workspace=tmp_path), install, number=1, device="MIG-1")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "MIG-1" and "--cuda-device" not in launch.flags


def test_an_old_comfyui_gets_no_flag_that_it_does_not_know(tmp_path: Path) -> None:
    """An unknown flag would end it with a usage error."""
    make_install(tmp_path / "ComfyUI", flags=("--cpu",))
    assert not {"--database-url", "--disable-metadata", "--disable-api-nodes"} & set(flags_of(tmp_path))


def test_further_flags_are_appended_and_those_that_are_ours_taken_out(tmp_path: Path) -> None:
    """The stock image's ``COMFYUI_ARGS`` has ``--port``: it chooses our first port and is not repeated."""
    extra = parse_args("--disable-auto-launch --port 18190 --temp-directory /x --extra-model-paths-config 'a b.yaml'")
    assert extra.port == 18190
    assert extra.rest == ("--disable-auto-launch", "--extra-model-paths-config", "a b.yaml")
    flags = flags_of(tmp_path, args="--output-directory /data/out --cpu --lowvram")
    assert flags[flags.index("--output-directory") + 1] == "/data/out"
    assert flags.count("--cpu") == 1 and flags[-1] == "--lowvram"


@pytest.mark.parametrize(
    ("args", "host"), [("", "127.0.0.1"), ("--listen", "127.0.0.1"), ("--listen 0.0.0.0,::", "127.0.0.1"),
                       ("--listen 10.0.0.5", "10.0.0.5")]
)  # fmt: skip
def test_where_it_listens_decides_how_we_reach_it(args: str, host: str) -> None:
    """Loopback unless the operator opens it."""
    assert parse_args(args).host == host


@pytest.mark.parametrize("args", ["--port x", "--port", "'open"])
def test_flags_that_make_no_sense_stop_the_start(args: str) -> None:
    """The variable and its value are named."""
    with pytest.raises(SettingsError, match="COMFYUI_ARGS"):
        parse_args(args)


def test_an_input_folder_that_is_not_ours_to_write_is_not_used(tmp_path: Path) -> None:
    """A missing one, too: then inputs lie in the workspace."""
    root = make_install(tmp_path / "ComfyUI")
    install = Install(python=Path(sys.executable), root=root)
    assert plan(EngineSettings(workspace=tmp_path), install, number=1).folders.input == root / "input"
    (root / "input").rmdir()
    assert plan(EngineSettings(workspace=tmp_path), install, number=1).folders.input == tmp_path / "input"
