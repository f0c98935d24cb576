"""The contract of quantizers, over all that ship here.

The layers of the tiny model are so small that what hardly counts in large ones weighs on ``share``: the code tables of
bitsandbytes. HQQ has a scale and a zero for 64 weights, here in fp32. Random weights have no redundancy: 4 bits cost a
model that was trained far less.
"""

import pytest
import torch

from ft.testing import changed_model
from ft.testing.contracts import QuantizerContract


class TestBnb4(QuantizerContract):
    keys = {"quantization_bit": 4}
    name, share, logits_error = "bnb-4", 0.2, 0.3


class TestBnb4Plain(QuantizerContract):
    keys = {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False}
    name, share, logits_error = "bnb-4", 0.2, 0.4


@pytest.mark.slow
class TestBnb4StoredAsBfloat16(QuantizerContract):
    keys = {"quantization_bit": 4, "bnb_4bit_quant_storage": "bfloat16"}
    name, share, logits_error = "bnb-4", 0.2, 0.3


class TestBnb8(QuantizerContract):
    keys = {"quantization_bit": 8}
    name, share, logits_error = "bnb-8", 0.28, 0.02


class TestHqq4(QuantizerContract):
    keys = {"quantization_bit": 4, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-4", 0.17, 0.3


@pytest.mark.slow
class TestHqq1(QuantizerContract):
    keys = {"quantization_bit": 1, "quantization_method": "hqq", "hqq_group_size": 16}
    name, share, logits_error = "hqq-1", 0.17, 1.3


@pytest.mark.slow
class TestHqq2(QuantizerContract):
    keys = {"quantization_bit": 2, "quantization_method": "hqq", "hqq_group_size": 16}
    name, share, logits_error = "hqq-2", 0.2, 0.8


@pytest.mark.slow
class TestHqq3(QuantizerContract):
    keys = {"quantization_bit": 3, "quantization_method": "hqq", "hqq_group_size": 32}
    name, share, logits_error = "hqq-3", 0.18, 0.5


@pytest.mark.slow
class TestHqq5(QuantizerContract):
    keys = {"quantization_bit": 5, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-5", 0.29, 0.15


@pytest.mark.slow
class TestHqq6(QuantizerContract):
    keys = {"quantization_bit": 6, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-6", 0.29, 0.07


class TestHqq8(QuantizerContract):
    keys = {"quantization_bit": 8, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-8", 0.29, 0.02


class TestEetq(QuantizerContract):
    keys = {"quantization_method": "eetq", "quantization_bit": 8}
    name, share, logits_error = "eetq-8", 0.28, 0.02


@pytest.mark.parametrize(
    ("keys", "compute", "storage"),
    [
        ({}, torch.float32, torch.uint8),
        ({"dtype": "bfloat16"}, torch.bfloat16, torch.uint8),
        ({"bnb_4bit_compute_dtype": "float16"}, torch.float16, torch.uint8),
        ({"bnb_4bit_quant_storage": "bfloat16"}, torch.float32, torch.bfloat16),
    ],
)
def test_the_formats_of_4_bits_are_those_of_the_keys(keys, compute, storage, tiny_model_dir, tmp_path):
    run, _ = changed_model({"model_name_or_path": tiny_model_dir, "quantization_bit": 4, **keys}, tmp_path)
    layer = run.model.get_base_model().model.layers[0].mlp.up_proj.get_base_layer()
    assert (layer.compute_dtype, layer.weight.dtype) == (compute, storage)
