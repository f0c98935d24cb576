"""Callbacks of plugins: whose they are is known when they fail, and those of loggers end no run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ft.errors import FtError, PluginError
from ft.lifecycle import run as run_plan
from ft.planning import make_plan
from ft.plugins.callbacks import guarded, trainer_callbacks
from ft_hookspecs import PluginInfo

if TYPE_CHECKING:
    from pathlib import Path


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


FRAGILE = """
@hookimpl
def ft_callbacks(run):
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, *_, **__):
            raise OSError("the terminal is gone")

    return [Steps()]
"""


def test_a_run_trains_on_without_its_logger(fake_plugin: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    fake_plugin("fragile", FRAGILE, kind="loggers")
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    words = (
        f"model_name_or_path={tiny_model_dir}", f"dataset={tmp_path / 'rows.json'}", f"output_dir={tmp_path / 'out'}",
        "use_cpu=true", "max_steps=3", "report_to=fragile",
    )  # fmt: skip
    told: list[str] = []
    done = run_plan(*make_plan(None, words), told.append)
    assert done.trainer.state.global_step == 3
    assert sum("the terminal is gone" in line for line in told) == 1
