"""``ft plugins check``: the contract of a kind, for a plugin of any origin."""

import subprocess
import sys
from pathlib import Path

import pytest

from ft.cli.plugin_check import check, source
from ft.errors import ConfigError, PluginError
from ft.testing.contracts import CLASSES
from ft_hookspecs import PluginInfo

ADAPTER = """
from ft_hookspecs import Change, hookimpl

@hookimpl
def ft_adapt_model(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".layers.1." in name
    return Change(model, "the second layer", frozenset({{"model.layers.{claimed}"}}))

@hookimpl
def ft_save_model(model, folder):
    model.save_pretrained(folder)
    return True
"""


def info(kind: str) -> PluginInfo:
    return PluginInfo(kind, "mine", "lab.mine", "ft-mine", "1.0")


@pytest.mark.parametrize(("claimed", "code"), [(1, 0), (0, 3)])
def test_a_file_passes_or_fails_with_what_it_broke(tmp_path: Path, claimed: int, code: int) -> None:
    path = tmp_path / "second.py"
    path.write_text(ADAPTER.format(claimed=claimed))
    words = ["plugins", "check", str(path), "--kind", "adapters", "merges=false"]
    done = subprocess.run([sys.executable, "-m", "ft", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert "its hooks, their parameters and its API version are right" in done.stdout
    assert ("test_what_trains_is_what_it_claims FAILED" in done.stdout) is bool(code)
    assert ("does not pass AdapterContract" in done.stderr) is bool(code)


@pytest.mark.parametrize(("contract", "kind"), CLASSES.items())
def test_the_test_of_each_kind_is_a_module(contract: str, kind: str) -> None:
    bounds = {"name": "mine-4", "share": 0.2, "logits_error": 0.3} if kind == "quantizers" else {}
    names: dict[str, object] = {}
    exec(source(info(kind), contract, {"mine_size": 3, **bounds}), names)
    made = names["TestPlugin"]
    assert made.plugin == "mine"
    assert made.keys == {"mine_size": 3} | ({"quantization_method": "mine"} if bounds else {})
    assert all(getattr(made, name) == value for name, value in bounds.items())
    if kind == "loggers":
        assert made().rows(None) is None


def test_bounds_that_only_the_author_knows_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="needs logits_error, name, share"):
        source(info("quantizers"), "QuantizerContract", {})


def test_a_kind_without_a_contract_is_verified_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("datasets:alpaca", "", []) == 0
    assert "there is no contract for the kind datasets" in capsys.readouterr().out


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(PluginError, match="no installed plugin"):
        check("alpacca", "", [])
