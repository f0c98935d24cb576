"""The fixtures that plugin authors get are the ones that these tests use."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and threads that wait take cores

pytest_plugins = ["ft.testing.pytest_plugin"]
