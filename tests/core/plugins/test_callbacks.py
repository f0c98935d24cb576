"""Callbacks of plugins: whose they are is known when they fail, and those of loggers end no run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ft.errors import FtError, PluginError
from ft.plugins.callbacks import guarded, trainer_callbacks
from ft_hookspecs import PluginInfo


def info(kind: str) -> PluginInfo:
    return PluginInfo(kind, "mine", "mine.module", "ft-mine", "1.0")


class Steps:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_begin(self, control: str) -> str:
        self.seen.append("begin")
        return control

    def on_step_end(self) -> None:
        self.seen.append("step")
        raise OSError("the terminal is gone")


def test_a_logger_that_fails_is_reported_once_and_called_no_more() -> None:
    reported: list[FtError] = []
    steps: Any = Steps()
    callback: Any = guarded(info("loggers"), steps, reported.append)
    assert callback.on_train_begin("control") == "control"
    callback.on_step_end()
    callback.on_step_end()
    assert callback.on_train_begin("control") is None
    assert steps.seen == ["begin", "step"]
    (error,) = reported
    assert "mine" in str(error)
    assert "on_step_end: OSError: the terminal is gone" in str(error)


def test_any_other_plugin_ends_the_run_and_is_named() -> None:
    callback: Any = guarded(info("accelerators"), Steps(), pytest.fail)
    with pytest.raises(PluginError, match=r"mine.*on_step_end: OSError"):
        callback.on_step_end()


@pytest.mark.parametrize("kind", ["loggers", "accelerators"])
def test_who_fails_to_give_any(kind: str) -> None:
    reported: list[FtError] = []

    def fail(*_: Any, **__: Any) -> Any:
        raise PluginError("no display")

    plugins: Any = SimpleNamespace(implementers=lambda _: (info(kind),), call=fail, report=reported.append)
    if kind == "loggers":
        assert trainer_callbacks(None, plugins) == []
        assert [str(error) for error in reported] == ["no display"]
    else:
        with pytest.raises(PluginError, match="no display"):
            trainer_callbacks(None, plugins)
