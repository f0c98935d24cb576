"""The fixtures that plugin authors get are the ones that these tests use."""

pytest_plugins = ["ft.testing.pytest_plugin"]
