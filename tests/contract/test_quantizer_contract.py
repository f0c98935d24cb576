"""The contract of quantizers, over all that ship here.

The layers of the tiny model are so small that what hardly counts in large ones weighs on ``share``: the code tables of
bitsandbytes. HQQ has a scale and a zero for 64 weights, here in fp32. Random weights have no redundancy: 4 bits cost a
model that was trained far less.
"""

from ft.testing.contracts import QuantizerContract


class TestBnb4(QuantizerContract):
    keys = {"quantization_bit": 4}
    name, share, logits_error = "bnb-4", 0.2, 0.3


class TestBnb4Plain(QuantizerContract):
    keys = {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False}
    name, share, logits_error = "bnb-4", 0.2, 0.4


class TestBnb8(QuantizerContract):
    keys = {"quantization_bit": 8}
    name, share, logits_error = "bnb-8", 0.28, 0.02


class TestHqq4(QuantizerContract):
    keys = {"quantization_bit": 4, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-4", 0.27, 0.3


class TestHqq8(QuantizerContract):
    keys = {"quantization_bit": 8, "quantization_method": "hqq"}
    name, share, logits_error = "hqq-8", 0.39, 0.02


class TestEetq(QuantizerContract):
    keys = {"quantization_method": "eetq", "quantization_bit": 8}
    name, share, logits_error = "eetq-8", 0.28, 0.02
