"""What every plugin of a kind must do, as pytest classes: subclass one, name the plugin and its keys, and run pytest.

::

    from ft.testing.contracts import AdapterContract

    class TestMine(AdapterContract):
        plugin = "mine"
        keys = {"mine_rank": 4}

The fixtures are those of ``ft.testing.pytest_plugin``. The plugins that ship with ft pass the same classes
(``tests/contract/``). Import this only in tests: it needs pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ft.testing.contracts.accelerators import AcceleratorContract
    from ft.testing.contracts.adapters import AdapterContract
    from ft.testing.contracts.loggers import LoggerContract
    from ft.testing.contracts.optimizers import OptimizerContract
    from ft.testing.contracts.quantizers import QuantizerContract
    from ft.testing.contracts.stages import StageContract

CLASSES: Final = {
    "AcceleratorContract": "accelerators",
    "AdapterContract": "adapters",
    "LoggerContract": "loggers",
    "OptimizerContract": "optimizers",
    "QuantizerContract": "quantizers",
    "StageContract": "stages",
}
"""Each class and the module that it stands in, imported when it is asked for."""

__all__ = [
    "CLASSES",
    "AcceleratorContract",
    "AdapterContract",
    "LoggerContract",
    "OptimizerContract",
    "QuantizerContract",
    "StageContract",
]


def __getattr__(name: str) -> Any:
    if name not in CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{CLASSES[name]}"), name)
