"""Runs in ComfyUI's interpreter, where torchvision's compiled half does not fit the installed torch (a CPU build).

Just before ``torchvision`` is first imported, the two operators that the compiled half would have registered are
defined, so that the pure-Python rest imports. Calling them still fails; nothing that ComfyUI itself does calls them.
Can go when every index that offers a CPU build of torch offers one of torchvision too.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class OperatorsBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; it only notices the import of torchvision."""

    def __init__(self) -> None:
        self.library: object = None  # torch drops the operators when this object goes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision" and self.library is None:
            import torch  # type: ignore[import-not-found]  # ComfyUI's environment has it, ours does not

            library = torch.library.Library("torchvision", "DEF")
            library.define(f"nms{SCHEMA}")
            library.define(f"qnms{SCHEMA}")
            self.library = library
        return None


sys.meta_path.insert(0, OperatorsBeforeTorchvision())
