"""What quantizers refuse while planning: every combination that would fail later, or do nothing without a word."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from ft.errors import FtError
from ft.planning import make_plan
from ft.quantization import quantizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def plan(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(*plugins: str, **keys: Any) -> Any:
        usual = {"model_name_or_path": tiny_model_dir, "dataset": "x", "output_dir": tmp_path / "out"}
        return make_plan(None, [f"{key}={value}" for key, value in {**usual, **keys}.items()], plugins)[0]

    return make


BNB4, BNB8 = {"quantization_bit": 4}, {"quantization_bit": 8}
HQQ, EETQ = {**BNB4, "quantization_method": "hqq"}, {"quantization_method": "eetq"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"quantization_bit": 3}, "bnb does not support 3 bits"),
        ({**BNB8, "use_dora": True}, "use_dora with bnb and 8 bits"),
        ({**HQQ, "quantization_bit": 7}, "hqq does not support 7 bits"),
        ({**EETQ, "quantization_bit": 4}, "eetq does not support 4 bits"),
        ({"quantization_method": "hqq"}, "set quantization_bit: 4"),
        ({**BNB4, "quantization_method": "awq"}, "quantizers is called 'awq'"),
        ({**BNB4, "finetuning_type": "full"}, "full tuning cannot train weights quantised by 'bnb'"),
        ({**EETQ, "finetuning_type": "freeze"}, "cannot train weights quantised by 'eetq'"),
        ({**EETQ, "finetuning_type": "full"}, "cannot train weights quantised by 'eetq'"),
        ({**HQQ, "fsdp": "full_shard"}, "hqq cannot be combined with fsdp"),
        ({**EETQ, "deepspeed": "ds.json"}, "eetq cannot be combined with deepspeed"),
        ({**BNB4, "deepspeed": "ds.json"}, "bnb cannot be combined with deepspeed"),
        ({**BNB8, "fsdp": "full_shard"}, "bnb with 8 bits cannot be combined with fsdp"),
        ({**BNB4, "fsdp": "full_shard"}, "packed into uint8 cannot be combined with fsdp"),
        ({**BNB4, "quantization_device_map": "auto"}, "cannot train"),
        ({**BNB8, "quantization_type": "fp4"}, "quantization_type has no effect with 8 bits"),
        ({**BNB8, "double_quantization": "false"}, "double_quantization has no effect with 8 bits"),
        ({**HQQ, "quantization_type": "fp4"}, "bnb"),
        ({**BNB4, "hqq_group_size": 32}, "hqq"),
        ({**HQQ, "hqq_group_size": 12}, "hqq_group_size"),
        ({**BNB4, "plugins": "eetq"}, "only one of bnb and eetq can quantise the model"),
        ({**BNB4, "adapter_name_or_path": "a,b"}, "cannot be merged into weights quantised by 'bnb'"),
        ({"stage": "dpo", "ref_model_quantization_bit": 4}, "has no effect without ref_model"),
        (
            {"stage": "dpo", "ref_model": "m", "ref_model_quantization_bit": 3},
            "ref_model_quantization_bit: bnb does not support 3 bits",
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_it_is_refused_in_time(plan: Callable[..., Any], keys: dict[str, Any], said: str) -> None:
    began = time.process_time()
    with pytest.raises(FtError) as caught:
        plan(**keys)
    assert said in str(caught.value)
    assert time.process_time() - began < 2


def test_what_is_neutral_is_no_reason_to_refuse(plan: Callable[..., Any]) -> None:
    plan(**BNB8, quantization_type="nf4", double_quantization="true")
    assert quantizer(plan("eetq")).name == "eetq"  # --plugin eetq alone: it knows one width


def test_4_bits_stored_as_the_activations_are_can_be_sharded(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft.combinations.process_problems", lambda _: ())  # fsdp needs a GPU
    plan(bnb_4bit_quant_storage="bfloat16", fsdp="full_shard", **BNB4)


def test_the_names_of_hugging_face(plan: Callable[..., Any]) -> None:
    asked = plan(load_in_4bit="true", bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant="false")
    assert (asked.get("quantization_bit"), asked.get("quantization_type")) == (4, "fp4")
    assert asked.get("double_quantization") is False


def test_a_quantised_reference_leaves_the_policy_free(plan: Callable[..., Any]) -> None:
    keys = {"stage": "dpo", "ref_model": "org/other", "ref_model_quantization_bit": 8, "finetuning_type": "full"}
    asked = plan(**keys)
    assert asked.has("quantizers", "bnb")
    assert quantizer(asked) is None


# ---- files that are quantised already


@pytest.fixture
def files(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """``files(quant_method="gptq")`` is a model whose config.json says so."""

    def make(**quantization: Any) -> Path:
        folder = tmp_path / "files"
        folder.mkdir()
        for path in tiny_model_dir.iterdir():
            (folder / path.name).symlink_to(path)
        config = json.loads((tiny_model_dir / "config.json").read_text())
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
        return folder

    return make


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("gptq", {}, "pip install gptqmodel optimum"),
        ("awq", {}, "pip install gptqmodel"),
        ("aqlm", {}, "pip install 'aqlm[gpu,cpu]"),
        ("compressed-tensors", {}, "pip install 'compressed-tensors"),
        ("eetq", {}, "need a GPU"),
        ("vptq", {}, "cannot be trained on"),
        ("bitsandbytes", BNB4, "quantised already (bitsandbytes)"),
        ("bitsandbytes", {"finetuning_type": "full"}, "full tuning cannot train weights quantised"),
        ("awq", {**BNB4, "quantization_method": "hqq"}, "quantised already (awq)"),
        ("gptq", {"use_dora": "true"}, "use_dora on files quantised by gptq"),
    ],
)
def test_files_that_cannot_be_trained_on(
    plan: Callable[..., Any], files: Callable[..., Path], method: str, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(FtError) as caught:
        plan(model_name_or_path=files(quant_method=method, bits=4), **keys)
    assert said in str(caught.value)


def test_files_of_the_hub_that_were_fetched_before(
    plan: Callable[..., Any], files: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--org--quantised"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots").mkdir()
    (model / "snapshots" / "abc").symlink_to(files(quant_method="gptq"))
    with pytest.raises(FtError, match="files quantised by gptq need"):
        plan(model_name_or_path="org/quantised")
