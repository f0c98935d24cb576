"""What a plugin author needs to test a plugin: tiny models, a tokenizer, fake installations and pytest fixtures.

Everything is made offline, in milliseconds and the same each time. Nothing heavy is imported until it is asked for.
Fixtures come with ``pytest_plugins = ["ft.testing.pytest_plugin"]`` in a ``conftest.py``.
"""

from ft.testing.packages import FakeDistribution, build_wheel, install_wheel, plugin_manager
from ft.testing.runs import Outcome, Runs
from ft.testing.surgery import changed_model
from ft.testing.tiny import ARCHITECTURES, save_tiny_model, tiny_model, tiny_tokenizer

__all__ = [
    "ARCHITECTURES",
    "FakeDistribution",
    "Outcome",
    "Runs",
    "build_wheel",
    "changed_model",
    "install_wheel",
    "plugin_manager",
    "save_tiny_model",
    "tiny_model",
    "tiny_tokenizer",
]
