"""Files that are quantised already: what a packed matrix stands for, from the headers and ``quantization_config``.

A linear layer ``name`` is stored in several tensors ``name.…``. Which they are and how they are packed is each method's
own; a method that is not here has no sizes, rather than wrong ones.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ft.quantization import method_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Parts = Mapping[str, "Stored"]
    Size = tuple[int, ...]
    Unpack = Callable[[Parts, Mapping[str, Any]], Size]

WORD: Final = 32
"""Bits of the integers that GPTQ and AWQ pack weights into."""


class Stored(NamedTuple):
    """A tensor in a file: its shape, its size in bytes, and where it begins."""

    shape: tuple[int, ...]
    size: int
    file: Path
    start: int

    def read(self) -> bytes:
        """What it holds; for the few bytes of a description, never for a weight."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size)


def unpacked(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors with one ``name.weight`` for each packed layer: its full shape, and the bytes of all its parts.

    Raises:
        ValueError: how the files are packed is not known.
    """
    method = method_of(config)
    if method not in METHODS:
        raise ValueError(f"how files quantised by {method} are packed is not known")
    marks, unpack = METHODS[method]
    plain, packed = dict(tensors), _layers(tensors, marks)
    for name, parts in packed.items():
        for part in parts:
            del plain[f"{name}.{part}"]
        shape = unpack(parts, config)
        first = next(iter(parts.values()))
        plain[f"{name}.weight"] = first._replace(shape=shape, size=sum(part.size for part in parts.values()))
    return plain


def _layers(tensors: Mapping[str, Stored], marks: tuple[str, ...]) -> dict[str, dict[str, Stored]]:
    """The parts of each packed layer, known by the part that only such layers have; the bias is none of them."""
    found: dict[str, dict[str, Stored]] = {}
    for name in tensors:
        for mark in marks:
            layer, separator, _ = name.partition(f".{mark}")
            if separator:
                found[layer] = {}
    for name, tensor in tensors.items():
        parent = next((layer for layer in _parents(name) if layer in found), None)
        if parent is not None and (part := name.removeprefix(f"{parent}.")) != "bias":
            found[parent][part] = tensor
    return found


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


# ---- methods ------------------------------------------------------------------------------------------------------


def _bitsandbytes(parts: Parts, _: Mapping[str, Any]) -> Size:
    """4 bits have a description in JSON; 8 bits are stored one number a byte."""
    described = next((part for name, part in parts.items() if name.startswith("weight.quant_state.")), None)
    return tuple(json.loads(described.read())["shape"]) if described else parts["weight"].shape


def _gptq(parts: Parts, config: Mapping[str, Any]) -> Size:
    if config.get("checkpoint_format", "gptq") not in ("gptq", "gptq_v2"):
        raise ValueError(f"how files of the format {config['checkpoint_format']} are packed is not known")
    words, outputs = parts["qweight"].shape
    return outputs, words * WORD // int(config["bits"])


def _awq(parts: Parts, config: Mapping[str, Any]) -> Size:
    if str(config.get("version") or "gemm").lower() != "gemm":
        raise ValueError(f"how AWQ files of version {config['version']} are packed is not known")
    inputs, words = parts["qweight"].shape
    return words * WORD // int(config.get("bits") or config["w_bit"]), inputs


def _aqlm(parts: Parts, config: Mapping[str, Any]) -> Size:
    outputs, inputs, _ = parts["codes"].shape
    return outputs * int(config.get("out_group_size", 1)), inputs * int(config.get("in_group_size", 8))


def _compressed(parts: Parts, _: Mapping[str, Any]) -> Size:
    """Packed integers say their shape; two 4-bit floats stand in a byte; others one number each."""
    if said := parts.get("weight_shape"):
        return struct.unpack("<2q" if said.size == 16 else "<2i", said.read())
    if packed := parts.get("weight_packed"):
        return packed.shape[0], 2 * packed.shape[1]
    return parts["weight"].shape


def _as_stored(parts: Parts, _: Mapping[str, Any]) -> Size:
    return parts["weight"].shape


def _transposed(parts: Parts, _: Mapping[str, Any]) -> Size:
    return parts["weight"].shape[::-1]


METHODS: Final[dict[str, tuple[tuple[str, ...], Unpack]]] = {
    "bitsandbytes": (("weight.quant_state.", "SCB"), _bitsandbytes),
    "gptq": (("qweight",), _gptq),
    "awq": (("qweight",), _awq),
    "aqlm": (("codes",), _aqlm),
    "compressed-tensors": (("weight_scale", "weight_packed"), _compressed),
    "fp8": (("weight_scale_inv",), _as_stored),
    "mxfp4": ((), _as_stored),
    "eetq": (("weight_scales",), _transposed),
}
"""The parts that mark a packed layer, and what gives its shape. MXFP4 is for experts alone, which are no layers."""
