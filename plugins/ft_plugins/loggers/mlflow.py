"""MLflow: into ``MLFLOW_TRACKING_URI`` (a server, a folder, a data base), or else into ``output_dir/mlruns``.

The experiment is ``project``, then ``MLFLOW_EXPERIMENT_NAME``, then ``Default``.
"""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ft_hookspecs import Problem, Run, StashKey, hookimpl
from ft_plugins.loggers._rows import points
from ft_plugins.loggers._trackers import run_name, settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ft_requires: Final = {"mlflow": "pip install 'ft-framework[mlflow]'"}

DATABASES: Final = ("sqlite:", "postgresql:", "mysql:", "mssql:")
AT_ONCE: Final = 100  # parameters that one request may hold
LONGEST: Final = 500  # characters of a parameter that every store takes


class Tracker(NamedTuple):
    """A client of the store, and the run in it."""

    client: Any
    run_id: str


TRACKER: Final = StashKey[Tracker]("mlflow: the open run")


@hookimpl
def ft_check() -> Iterator[Problem]:
    """A data base is reached by a package that the small MLflow does not bring."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(DATABASES) and find_spec("sqlalchemy") is None:
        yield Problem(
            f"MLFLOW_TRACKING_URI names a data base ({uri.partition(':')[0]}), and sqlalchemy is not installed",
            remedy="pip install mlflow, or name a folder or a server",
            keys=("report_to",),
            exit_code=5,
        )


@hookimpl
def ft_log(run: Run, row: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric

    if TRACKER not in run.stash:
        run.stash[TRACKER] = _open(run)
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, row["step"]) for name, value in points(row).items()]
    tracker = run.stash[TRACKER]
    tracker.client.log_batch(tracker.run_id, metrics=metrics)


@hookimpl
def ft_run_finished(run: Run) -> None:
    _close(run, "FINISHED")


@hookimpl
def ft_run_failed(run: Run) -> None:
    _close(run, "FAILED")


def _open(run: Run) -> Tracker:
    from mlflow import MlflowClient
    from mlflow.entities import Param

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is what works without a server or data base
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.output_dir.resolve() / "mlruns").as_uri()
    client = MlflowClient(tracking_uri=uri)
    name = run.plan.get("project") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
    experiment = client.get_experiment_by_name(name)
    tracker = Tracker(
        client,
        client.create_run(
            experiment.experiment_id if experiment else client.create_experiment(name), run_name=run_name(run)
        ).info.run_id,
    )
    parameters = [Param(key, str(value)[:LONGEST]) for key, value in settings(run).items()]
    for start in range(0, len(parameters), AT_ONCE):
        client.log_batch(tracker.run_id, params=parameters[start : start + AT_ONCE])
    return tracker


def _close(run: Run, status: str) -> None:
    if TRACKER in run.stash:
        tracker = run.stash[TRACKER]
        tracker.client.set_terminated(tracker.run_id, status)
