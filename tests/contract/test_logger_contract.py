"""Every logger that ships passes the contract that a third party's does, by its real package, without network."""

from __future__ import annotations

import json
import sqlite3
import struct

import pytest

from ft.plugins import find_plugins
from ft.testing.contracts import LoggerContract

TRACKERS = "ft_plugins.loggers."


class TestConsole(LoggerContract):
    plugin = "console"
    breaks = (TRACKERS + "_display", "line")

    def rows(self, logged):
        assert logged.outcome.output.count("step 3/3  loss ") == 1
        assert logged.outcome.output.count("eval_loss ") == 4  # with the final line


class TestJsonl(LoggerContract):
    plugin = "jsonl"

    def rows(self, logged):
        return {"train/loss": logged.outcome.series("loss"), "eval/loss": logged.outcome.series("eval_loss", "eval")}


class TestTensorboard(LoggerContract):
    plugin = "tensorboard"
    breaks = (TRACKERS + "tensorboard", "points")

    def rows(self, logged):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(logged.outcome.folder / "runs"))
        events.Reload()
        return {tag: {one.step: one.value for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


class TestPlotLoss(LoggerContract):
    plugin = "none"
    keys = {"plot_loss": True}
    breaks = (TRACKERS + "plot_loss", "dict")

    def rows(self, logged):
        assert (logged.outcome.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
class TestWandb(LoggerContract):
    plugin = "wandb"
    environ = {"WANDB_MODE": "offline"}
    breaks = (TRACKERS + "wandb", "points")

    def rows(self, logged):
        from wandb.proto import wandb_internal_pb2

        (path,) = logged.outcome.folder.glob("wandb/offline-run-*/run-*.wandb")
        kept = {}
        for data in wandb_records(path.read_bytes()):
            history = wandb_internal_pb2.Record.FromString(data).history
            items = {one.key or ".".join(one.nested_key): one.value_json for one in history.item}
            for name in items.keys() - {"_step"}:
                kept.setdefault(name, {})[history.step.num] = float(items[name])
        return kept


def wandb_records(data):
    """Of a transaction log: blocks of 32 KiB of chunks, each a checksum, a length, a kind (2 first, 3 middle), data."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (2, 3):
            yield record
            record = b""


@pytest.mark.slow
class TestMlflow(LoggerContract):
    plugin = "mlflow"
    keys = {"project": "stones", "run_name": "red"}
    breaks = (TRACKERS + "mlflow", "points")

    def rows(self, logged):
        kept = {}
        for path in (logged.outcome.folder / "mlruns").glob("*/*/metrics/*/*"):
            lines = [line.split() for line in path.read_text().splitlines()]
            kept[f"{path.parent.name}/{path.name}"] = {int(step): float(value) for _, value, step, *_ in lines}
        return kept


@pytest.mark.slow
class TestTrackio(LoggerContract):
    plugin = "trackio"
    keys = {"project": "stones"}
    environ = {"TRACKIO_DIR": "{folder}/trackio"}
    breaks = (TRACKERS + "trackio", "points")

    def rows(self, logged):
        kept = {}
        with sqlite3.connect(logged.folder / "trackio" / "stones.db") as database:
            for step, metrics in database.execute("SELECT step, metrics FROM metrics"):
                for name, value in json.loads(metrics).items():
                    kept.setdefault(name, {})[step] = value
        return kept


@pytest.mark.slow
class TestSwanlab(LoggerContract):
    plugin = "swanlab"
    keys = {"swanlab_mode": "offline", "swanlab_api_key": "Zq7" * 12}
    breaks = (TRACKERS + "swanlab", "points")

    def rows(self, logged):
        (written,) = logged.outcome.folder.glob("swanlog/run-*/*.swanlab")
        assert {b"train/loss", b"eval/loss"} <= {
            name for name in (b"train/loss", b"eval/loss") if name in written.read_bytes()
        }


def test_every_logger_is_in_the_table():
    tested = {case.plugin for case in LoggerContract.__subclasses__()} | {"plot_loss"}
    assert {
        info.name for info in find_plugins() if (info.kind, info.distribution) == ("loggers", "ft-framework")
    } <= tested
