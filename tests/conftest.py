"""The fixtures that plugin authors get are the ones that these tests use."""

import gc
import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and threads that wait take cores

pytest_plugins = ["ft.testing.pytest_plugin"]

MANY = 50
"""So many newly imported modules are worth another freezing."""


@pytest.fixture(autouse=True)
def _spare_what_is_imported(_frozen_modules: list[int]) -> None:
    """Each training collects garbage; half of a tiny one's time is the walk through what libraries have imported."""
    if len(sys.modules) > _frozen_modules[-1] + MANY:
        gc.collect()
        gc.freeze()
        _frozen_modules.append(len(sys.modules))


@pytest.fixture(scope="session")
def _frozen_modules() -> list[int]:
    return [0]
