"""What a check on a GPU is, and what all of them share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Place:
    """Where a check runs: ``cuda`` at full size, or, to try the code of the checks, ``cpu`` at tiny sizes."""

    device: str
    tiny: bool = False


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Args:
        name: unique in its topic.
        run: gives the figures of the row; an ``AssertionError`` says what is wrong, any other error that it failed.
        needs: import names of packages; without one of them the row says ``not installed``.
        seconds: after which its process is killed.
        gpu_only: the code has no part that a CPU could run; a dry run leaves it out.
        alone: it measures time or memory, so nothing else computes meanwhile.
        late: what others matter more than, should the time not last.
        gigabytes: of the device that it needs; on a smaller one the row says so.
    """

    name: str
    run: Callable[[Place], Mapping[str, Any]]
    needs: tuple[str, ...] = ()
    seconds: float = 60
    gpu_only: bool = False
    alone: bool = False
    late: bool = False
    gigabytes: float = 0

    def missing(self) -> list[str]:
        """The packages that are not installed; a folder that only holds parts of others (`flash_attn`) is none."""
        specs = {name: find_spec(name) for name in self.needs}
        return [name for name, spec in specs.items() if spec is None or spec.origin is None]


def neighbour(topic: str) -> Any:
    """A module of this folder, loaded by its path: a package may have its name (`kernels`).

    Before anything else is imported the folder leaves the path, so that nobody takes its modules for packages.
    """
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE]
    name = f"gpu_{topic}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, HERE / f"{topic}.py")
        sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def relative(ours: Any, theirs: Any) -> float:
    """The norm of the difference of two tensors, as a share of the second's."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())
