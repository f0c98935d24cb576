"""What every logger must do: keep the rows, need no network, hold no secret, and never stop a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.testing.runs import Outcome, Runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRET = "hf_" + "Zq7" * 10
"""A token that a run is given, and that must be found nowhere."""

SURROUNDINGS = """
import os, socket, sys
from ft_hookspecs import hookimpl

os.environ.update({environ!r})
connect = socket.socket.connect

def connect_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError("there is no network")
    return connect(self, address)

def explode(*args, **kwargs):
    raise RuntimeError("the tracker is down")

socket.socket.connect = connect_here

@hookimpl(tryfirst=True)
def ft_log(run, row):
    if {function!r}:
        setattr(sys.modules[{module!r}], {function!r}, explode)
"""
"""A plugin beside the logger: its process has the variables and no network, and a function of the logger fails."""

NO_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
"""For processes that a tracker starts: nobody listens there."""


@dataclass(frozen=True)
class Logged:
    """A run with the logger, and the folder that the logger writes into if not into ``output_dir``."""

    outcome: Outcome
    folder: Path


class LoggerContract:
    """Subclass it, set ``plugin``, and say in :meth:`rows` what the logger has kept."""

    plugin: ClassVar[str]
    """A name for ``report_to``; ``none`` for what other keys select."""
    keys: ClassVar[Mapping[str, Any]] = {}
    """What a user would write beside it, to log without network."""
    environ: ClassVar[Mapping[str, str]] = {}
    """Variables to log without network; ``{folder}`` is a fresh folder."""
    breaks: ClassVar[tuple[str, str]] = ("", "")
    """A module and a function of it that the logger calls for each row: made to fail, it must not stop a run."""

    def rows(self, logged: Logged) -> Mapping[str, Mapping[int, float]] | None:
        """What was kept: the values by step of each metric (``train/loss``, ``eval/loss``); ``None``: it keeps none."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def logged(cls, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Logged:
        """Three steps with an evaluation after each."""
        return _run(cls, tiny_model_dir, tmp_path_factory.mktemp("logged"))

    def test_the_run_ends_well(self, logged: Logged) -> None:
        assert logged.outcome.exits == (0,), logged.outcome.output

    def test_the_rows_arrive(self, logged: Logged) -> None:
        kept = self.rows(logged)
        if kept is not None:
            for event, name in (("train", "loss"), ("eval", "eval_loss")):
                written = logged.outcome.series(name, event)
                assert kept[f"{event}/loss"] == pytest.approx(written, rel=1e-4)
                assert len(written) == 3

    def test_nothing_that_is_written_holds_a_secret(self, logged: Logged) -> None:
        files = [path for path in logged.folder.rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]

    def test_one_that_fails_is_reported_once_and_stops_nothing(self, tiny_model_dir: Path, tmp_path: Path) -> None:
        if self.breaks[0]:
            outcome = _run(type(self), tiny_model_dir, tmp_path / "failing", *self.breaks).outcome
            assert outcome.exits == (0,), outcome.output
            assert outcome.output.count("the tracker is down") == 1
            assert len(outcome.series("loss")) == 3


def _run(case: type[LoggerContract], model: Path, folder: Path, module: str = "", function: str = "") -> Logged:
    folder.mkdir(exist_ok=True)
    environ = {name: value.format(folder=folder) for name, value in case.environ.items()}
    surroundings = SURROUNDINGS.format(environ={**NO_PROXY, **environ}, module=module, function=function)
    (folder / "surroundings.py").write_text(surroundings, encoding="utf-8")
    data = folder / "data.json"
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(1, 9)]
    data.write_text(json.dumps(rows), encoding="utf-8")
    keys = {
        "model_name_or_path": model,
        "dataset": data,
        "val_size": 2,
        "cache_dir": folder / "cache",
        "output_dir": folder / "out",
        "max_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "hf_hub_token": SECRET,
        "report_to": case.plugin,
        **case.keys,
    }
    return Logged(Runs()(keys, plugins=[str(folder / "surroundings.py")]), folder)
