"""Files that are quantised already have the sizes of the weights that they stand for, and take what they take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ft.estimate import UnknownShapeError, estimate_memory, estimate_or_note, read_shape, read_weights
from ft.planning import make_plan
from ft.testing import save_tiny_model
from ft_plugins.models._layout import layout
from ft_plugins.quantizers import prequantized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Tensors = dict[str, Any]

LAYER = ".layers."


def gptq(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.qweight": np.zeros((inputs * 4 // 32, outputs), np.int32),
        f"{name}.qzeros": np.zeros((inputs // 32, outputs * 4 // 32), np.int32),
        f"{name}.scales": np.zeros((inputs // 32, outputs), np.float16),
        f"{name}.g_idx": np.zeros(inputs, np.int32),
    }


def awq(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.qweight": np.zeros((inputs, outputs * 4 // 32), np.int32),
        f"{name}.qzeros": np.zeros((inputs // 32, outputs * 4 // 32), np.int32),
        f"{name}.scales": np.zeros((inputs // 32, outputs), np.float16),
    }


def aqlm(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.codes": np.zeros((outputs, inputs // 8, 1), np.int16),
        f"{name}.codebooks": np.zeros((1, 256, 1, 8), np.float16),
        f"{name}.scales": np.zeros((outputs, 1, 1, 1), np.float16),
    }


def packed_integers(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.weight_packed": np.zeros((outputs, inputs * 4 // 32), np.int32),
        f"{name}.weight_scale": np.zeros((outputs, inputs // 32), np.float16),
        f"{name}.weight_shape": np.array([outputs, inputs], np.int64),
    }


def packed_floats(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.weight_packed": np.zeros((outputs, inputs // 2), np.uint8),
        f"{name}.weight_scale": np.zeros((outputs, inputs // 16), np.int8),
        f"{name}.weight_global_scale": np.zeros(1, np.float32),
    }


def bytes_and(scale: str) -> Callable[[str, int, int], Tensors]:
    def store(name: str, outputs: int, inputs: int) -> Tensors:
        shape = (inputs, outputs) if scale == "weight_scales" else (outputs, inputs)
        return {f"{name}.weight": np.zeros(shape, np.int8), f"{name}.{scale}": np.zeros(outputs, np.float16)}

    return store


METHODS: dict[str, tuple[Callable[[str, int, int], Tensors], dict[str, Any], float]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4}, 0.5),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "version": "gemm"}, 0.5),
    "aqlm": (aqlm, {"quant_method": "aqlm", "in_group_size": 8, "out_group_size": 1}, 0.25),
    "packed integers": (packed_integers, {"quant_method": "compressed-tensors"}, 0.5),
    "packed floats": (packed_floats, {"quant_method": "compressed-tensors"}, 0.5),
    "integers": (bytes_and("weight_scale"), {"quant_method": "compressed-tensors"}, 1),
    "fp8": (bytes_and("weight_scale_inv"), {"quant_method": "fp8"}, 1),
    "eetq": (bytes_and("weight_scales"), {"quant_method": "eetq"}, 1),
    "bytes of bitsandbytes": (bytes_and("SCB"), {"load_in_8bit": True}, 1),
}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "plain", attention_bias=True)


@pytest.fixture
def quantised(plain: Path) -> Callable[..., Path]:
    """The same model with the matrices of its layers stored in another way."""

    def store(way: Callable[[str, int, int], Tensors], config: Mapping[str, Any]) -> Path:
        tensors = load_file(plain / "model.safetensors")
        for name in [name for name, each in tensors.items() if LAYER in name and each.ndim == 2]:
            tensors |= way(name.removesuffix(".weight"), *tensors.pop(name).shape)
        folder = plain.with_name("quantised")
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        given = json.loads((plain / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**given, "quantization_config": dict(config)}))
        return folder

    return store


@pytest.mark.parametrize(("way", "config", "least"), METHODS.values(), ids=METHODS)
def test_sizes_are_those_of_the_plain_model(
    plain: Path, quantised: Callable[..., Path], way: Any, config: Any, least: float
) -> None:
    found, expected = read_shape(quantised(way, config)), read_shape(plain)
    assert dict(found.tensors) == dict(expected.tensors)
    assert found.parameters == expected.parameters
    assert expected.matrix_bytes is None
    assert found.matrix_bytes is not None
    assert least <= found.matrix_bytes < least + 1  # tables weigh much beside matrices as small as these


def test_names_and_widths_are_known_to_the_checks(plain: Path, quantised: Callable[..., Path]) -> None:
    two = [read_weights(folder) for folder in (plain, quantised(gptq, METHODS["gptq"][1]))]
    expected, found = (layout(weights.config, weights.shapes) for weights in two)
    assert expected
    assert found
    assert found.linear == expected.linear
    assert set(found.matrices) == set(expected.matrices)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "torchao"}, "how files quantised by torchao are packed is not known"),
        ({"bits": 4}, "how files quantised by unknown are packed is not known"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "the format marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ files of version gemv"),
    ],
)
def test_what_is_not_known_is_said(quantised: Callable[..., Path], config: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownShapeError, match=said):
        read_shape(quantised(gptq, config))


# ---- plans --------------------------------------------------------------------------------------------------------


def planned(model: Path, *words: str) -> Any:
    return make_plan(None, [f"model_name_or_path={model}", "dataset=x.json", "output_dir=out", "use_cpu=true", *words])


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_files_are_estimated_as_what_is_quantised_while_loading(
    plain: Path, tmp_path: Path, bits: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "bnb")
    found = estimate_memory(*planned(tmp_path / "bnb", "lora_rank=4"))
    expected = estimate_memory(*planned(plain, "lora_rank=4", f"quantization_bit={bits}"))
    assert found.shape.tensors == expected.shape.tensors
    assert (found.added, found.adapted) == (expected.added, expected.adapted)
    assert expected.matrix_bytes <= found.matrix_bytes < expected.matrix_bytes + 0.3  # as above


def test_weights_that_become_floats_while_they_are_read_count_as_such(quantised: Callable[..., Path]) -> None:
    way, config, _ = METHODS["fp8"]
    assert estimate_memory(*planned(quantised(way, config))).matrix_bytes is None


def test_a_second_model_takes_what_its_files_take(plain: Path, quantised: Callable[..., Path]) -> None:
    folder = quantised(*METHODS["integers"][:2])
    words = ("stage=dpo", "dtype=float32")
    small, large = (
        estimate_memory(*planned(plain, *words, f"ref_model={model}")).held["ref_model"]
        for model in (folder, save_tiny_model(plain.with_name("other"), attention_bias=True, seed=1))
    )
    assert small < large


def test_a_plan_says_why_there_is_no_estimate(quantised: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prequantized, "find_spec", lambda _: object())
    said = estimate_or_note(*planned(quantised(bytes_and("scale"), {"quant_method": "quanto"})))
    assert isinstance(said, str)
    assert "how files quantised by quanto are packed is not known" in said
