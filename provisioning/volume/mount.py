"""Has the worker's ComfyUI look at the network volume, where one is mounted."""

from dataclasses import dataclass
from pathlib import Path

from provisioning.errors import ProvisioningError
from provisioning.interpreter import Interpreter
from provisioning.steps import say, write_text_atomically
from provisioning.volume.folders import model_kinds
from provisioning.volume.paths import FILE_NAME, check_own_paths, own_paths, volume_paths
from provisioning.volume.survey import VolumeReport, survey, tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A mounted volume. ``configs``: what ComfyUI gets as ``--extra-model-paths-config``, ours first."""

    path: Path
    report: VolumeReport
    configs: tuple[Path, ...]
    problem: ProvisioningError | None = None

    def holds(self, model: str, *, size_bytes: int | None) -> bool:
        """Tell whether a model of a manifest (``checkpoints/a``) lies on the volume already."""
        path = self.path / "models" / model
        return path.is_file() and size_bytes in (None, path.stat().st_size)

    def node_packs(self) -> tuple[Path, ...]:
        """Give the node packs that lie on the volume."""
        return tuple(self.path / "custom_nodes" / name for name in self.report.node_packs)


def mount(
    path: Path, *, workspace: Path, root: Path | None, interpreter: Interpreter | None, each: bool
) -> Volume | None:
    """Write ComfyUI's file of paths for the volume and say what is on it; None where there is none.

    The volume's own ``extra_model_paths.yaml`` counts too, unless ComfyUI would not start with it: that is ``problem``.
    """
    target = workspace / FILE_NAME
    if not path.is_dir():
        target.unlink(missing_ok=True)
        if each:
            say(f"Network volume: none at {path}")
        return None
    path = path.resolve()
    say(f"Network volume {path}")
    kinds = model_kinds(root, interpreter)
    write_text_atomically(target, volume_paths(path, kinds))
    configs, problem, own = [target], None, own_paths(path)
    if own is not None:
        try:
            check_own_paths(own)
            configs.append(own)
        except ProvisioningError as error:
            problem = error
    report = survey(path, kinds, each=each)
    tell(report)
    return Volume(path=path, report=report, configs=tuple(configs), problem=problem)
