"""GGUF files as models that train: dequantised once, kept in a cache in the Hugging Face layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ft.errors import DataError, FtError
from ft_plugins.models._cache import atomic_folder

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

LAYOUT: Final = 1
"""Part of the cache key; raised when a converted folder would come out different."""
FP32_LIMIT: Final = 4 << 30
"""Bytes of a GGUF file up to which its weights are kept exactly, in float32; above it (about 7 billion 4-bit weights)
they are rounded to bfloat16, because float32 would take eight times the file on disk and in memory."""


def convert_gguf(file: Path, cache: Path) -> Path:
    """The folder with the converted model and its tokenizer; made on first use, found by content after that.

    Args:
        file: one GGUF file with everything in it (not one of several shards).
        cache: the folder of all caches.

    Raises:
        DataError: the file is no GGUF file, or of an architecture that transformers cannot convert.
    """
    target = cache / "models" / f"{file.stem}-v{LAYOUT}-{content_key(file)}"
    if not target.is_dir():
        check_magic(file)
        with atomic_folder(target) as folder:
            _convert(file, folder)
    return target


def content_key(file: Path) -> str:
    """Half of the file's BLAKE3 hash, in 32 hexadecimal digits; about a second for 5 GB."""
    from blake3 import blake3

    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest()[:32]


def check_magic(file: Path) -> None:
    """Refuse at once what is not GGUF (an interrupted download, a Git LFS pointer).

    Raises:
        DataError: the first four bytes are others.
    """
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise DataError(
            f"{file.name} is not a GGUF file", where=str(file), why=f"it begins with {magic!r}", remedy="fetch it again"
        )


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.float32 if file.stat().st_size <= FP32_LIMIT else torch.bfloat16
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, output_loading_info=True
        )
        _check_complete(file, report["missing_keys"])
        _plain(model).save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    except FtError:
        raise
    except Exception as error:  # the reader of a binary format fails in as many ways as there are broken files
        raise DataError(
            f"{file.name} cannot be converted",
            where=str(file),
            why=f"{type(error).__name__}: {error}",
            remedy="use the model's safetensors files, if its architecture is not supported as GGUF",
        ) from error


def _check_complete(file: Path, missing: set[str]) -> None:
    if missing:
        raise DataError(f"{file.name} lacks {len(missing)} weights, {min(missing)} among them", where=str(file))


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not count as quantised: transformers refuses to save one that does."""
    config = model.config
    del config.quantization_config
    plain: PreTrainedModel = type(model).from_pretrained(
        None, config=config, state_dict=model.state_dict(), dtype=model.dtype
    )
    plain.generation_config = model.generation_config
    return plain
