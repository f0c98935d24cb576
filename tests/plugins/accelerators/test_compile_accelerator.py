"""Compiling: once for all lengths and layers, in training alone, told and counted apart."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.errors import ConfigError
from ft.testing import Runs, tiny_model
from ft.training import Engine, pack
from ft_plugins.accelerators._layers.compiling import CompileReport
from ft_plugins.accelerators.compile import compile_layers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled, by a backend that runs them as they are."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **more: original(model, **{**more, "backend": backend, "mode": None})
    )
    return graphs


def batch(*lengths: int) -> Any:
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in lengths]
    return pack([{"input_ids": row, "labels": row} for row in rows])


def test_other_lengths_and_layers_compile_nothing_new(compilations: list[Any]) -> None:
    plain, model = (tiny_model(num_hidden_layers=6).train() for _ in range(2))
    compile_layers(model, "inductor", None)
    engine, other = Engine(model), Engine(plain)
    counts = []
    for lengths in ((20, 33, 7), (5, 9), (50, 3, 11, 2), (17,), (40, 41)):
        loss, expected = (each.cross_entropy(batch(*lengths), 1.0) for each in (engine, other))
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
        counts.append(len(compilations))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)
    assert counts[0] < 20, "far fewer than six layers of four parts"
    assert counts[-1] == counts[1], counts


def test_what_has_no_gradient_is_not_compiled(compilations: list[Any]) -> None:
    model = tiny_model().eval()
    compile_layers(model, "inductor", None)
    with torch.no_grad():
        model(torch.arange(5, 25)[None])
    model.generate(torch.arange(5, 25)[None], max_new_tokens=4, pad_token_id=3)
    assert compilations == []


def test_names_of_parameters_stay() -> None:
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]
    parts = compile_layers(model, "aot_eager", None)
    assert [name for name, _ in model.named_parameters()] == names
    assert "model.layers.1.mlp" in parts


def test_an_unknown_backend_is_refused() -> None:
    from ft_plugins.accelerators.compile import ft_accelerate_model

    plan = SimpleNamespace(get={"torch_compile_backend": "inducter"}.get, sources={})
    with pytest.raises(ConfigError, match="refuses the backend"):
        ft_accelerate_model(SimpleNamespace(plan=plan), tiny_model())


def test_compiling_is_told_and_is_not_training_time(compilations: list[Any]) -> None:
    from ft.training.throughput import Throughput

    told: list[str] = []
    throughput = Throughput()
    run = SimpleNamespace(trainer=SimpleNamespace(throughput=throughput), tell=told.append, metrics={})
    report = CompileReport(run)
    report.on_train_begin()
    throughput.add(10)
    since = throughput._since
    torch.compile(lambda x: x.sin().cos())(torch.ones(3))
    report.on_step_end(None, SimpleNamespace(global_step=1), None)
    torch.compile(lambda x: x.sin())  # never called: nothing is compiled
    report.on_step_end(None, SimpleNamespace(global_step=2), None)
    report.on_train_end()
    assert len(compilations) == 1
    assert [line.partition(" took ")[0] for line in told] == ["compiling"]
    assert told[0].endswith("of step 1")
    assert report.seconds > 0
    assert throughput._since == pytest.approx(since + report.seconds, abs=0.01)
    assert run.metrics["compile_seconds"] == round(report.seconds, 1)


@pytest.mark.slow
def test_a_resumed_run_is_the_same_and_says_what_compiling_took(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"instruction": f"Say {n}.", "output": "yes " * n} for n in range(1, 9)]))
    runs = Runs(
        {
            "model_name_or_path": tiny_model_dir,
            "dataset": data,
            "cache_dir": tmp_path / "cache",
            "use_cpu": True,
            "torch_compile": True,
            "torch_compile_backend": "aot_eager",
            "max_steps": 4,
            "save_steps": 2,
            "logging_steps": 1,
        }
    )
    whole = runs({"output_dir": tmp_path / "whole"})
    assert whole.exits == (0,), whole.output
    assert "compiling took" in whole.output
    assert whole.rows[-1]["compile_seconds"] > 0
    again = runs({"output_dir": tmp_path / "again", "resume_from_checkpoint": tmp_path / "whole" / "checkpoint-2"})
    assert again.exits == (0,), again.output
    tensors = whole.tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.tensors().items())
