"""The reference of preference methods: what the policy is compared with, and its log-probabilities computed once.

Without ``ref_model`` it is the policy as it was before its first step, whatever its adapter: after an SFT adapter, the
SFT model. Only what trains is kept a second time and put in its place while the reference is asked.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate.utils import broadcast_object_list, gather_object
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ft.errors import DataError, EnvironmentProblem
from ft.files import replacing
from ft.options import cache_folder
from ft.training.capability import unwrap
from ft.training.engine import evaluating
from ft.training.packing import per_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ft.training.packing import PackedBatch
    from ft.training.trainer import PackedTrainer
    from ft_hookspecs import Run

    Collate = Callable[[Sequence[Mapping[str, Any]]], PackedBatch]

COLUMN: Final = "reference"
LINES: Final = 10
"""How many times the progress of a computation is told."""


class Reference:
    """A model that does not train.

    Args:
        model: it, or the policy.
        start: the values of the policy's parameters that the reference has instead of what they become.
    """

    def __init__(self, model: nn.Module, start: Mapping[nn.Parameter, Tensor]) -> None:
        self.model = model
        self._start = start

    @classmethod
    def of_start(cls, model: nn.Module) -> Reference:
        """The policy as it is now: call it before the first step."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return cls(model, {parameter: parameter.detach().clone() for parameter in trained})

    @classmethod
    def of_model(cls, model: nn.Module) -> Reference:
        """A model of its own, all of it frozen."""
        return cls(model.requires_grad_(False).eval(), {})

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the reference's weights, in evaluation mode and without gradients; give it to the engine.

        The values of what trains are put back afterwards, the very same tensors.
        """
        kept = {parameter: parameter.data for parameter in self._start}
        with evaluating(self.model), torch.no_grad():
            try:
                for parameter, value in self._start.items():
                    parameter.data = value.to(parameter.device)
                yield self.model
            finally:
                for parameter, value in kept.items():
                    parameter.data = value

    def digest(self) -> str:
        """A blake3 of all weights and settings: what the log-probabilities depend on."""
        with self.applied() as model:
            hasher = blake3(max_threads=blake3.AUTO)
            config: Any = unwrap(model).config
            settings = [config.to_dict(), *map(vars, getattr(model, "peft_config", {}).values())]
            hasher.update(repr([sorted(_in_order(each).items()) for each in settings]).encode())
            for name, values in sorted(model.state_dict().items()):
                if isinstance(values, torch.Tensor):
                    hasher.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
                    hasher.update(_bytes(values))
        return str(hasher.hexdigest())


def _in_order(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings without sets: the order of a set of texts, PEFT's ``target_modules``, is another in each process."""
    return {
        str(name): sorted(value, key=str) if isinstance(value, set | frozenset) else value
        for name, value in settings.items()
    }


def reference_for(run: Run) -> Reference:
    """The reference that the keys of :class:`ft.options.ReferenceOptions` ask for; call it in ``ft_build_trainer``.

    Raises:
        DataError: ``ref_model`` cannot be loaded, or has other tokens than the policy.
    """
    name, adapters = run.plan.get("ref_model"), run.plan.get("ref_model_adapters")
    if name is None:
        assert run.model is not None
        run.decide("the reference is the model as it is before its first step")
        return Reference.of_start(run.model)
    other = run.load_other(name, adapters, run.plan.get("ref_model_quantization_bit"))
    assert run.tokenizer is not None
    _check_tokens(name, other.tokenizer, run.tokenizer)
    run.decide(f"the reference is {name}" + (f" with {adapters}" if adapters else ""))
    return Reference.of_model(other.model)


def _check_tokens(name: str, theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase) -> None:
    other, own = theirs.get_vocab(), ours.get_vocab()
    if other != own:
        differing = sorted(dict(other.items() ^ own.items()))
        raise DataError(
            "the reference has another vocabulary than the model that trains",
            where=f"ref_model: {name}",
            why=f"{len(differing)} tokens differ, such as {differing[0]!r}: the same ids would be other texts to it",
            remedy="give a ref_model of the same family, or leave ref_model out",
        )


# ---- its log-probabilities, computed once


def precompute(
    run: Run, trainer: PackedTrainer, reference: Reference, dataset: Dataset, collate: Collate | None = None
) -> Dataset:
    """The data set with a column ``reference``: the log-probabilities of all labels of each row, in order.

    Every process computes its share; what was computed once is read from the cache. Call it in ``ft_build_trainer`` on
    every process, before the model takes a step or is resumed.

    Args:
        run: tells the progress, and names the cache folder.
        trainer: its engine and number format compute.
        reference: what is asked.
        dataset: rows that ``collate`` makes batches of, as many sequences of each row.
        collate: the trainer's own unless given.

    Raises:
        EnvironmentProblem: the cache cannot be written.
    """
    collate = collate or trainer.collate
    key = _key(trainer, reference, dataset)
    path = cache_folder(run.plan.get("cache_dir")) / COLUMN / f"{key}.safetensors"
    main = trainer.args.process_index == 0
    [found] = broadcast_object_list([_read(path, run) if main else None])
    if found is None:
        shares = gather_object([_compute(run, trainer, reference, dataset, collate)])
        found = {name: torch.cat([share[name] for share in shares]) for name in ("lengths", "values")}
        if main:
            _write(path, found)
    else:
        run.tell(f"reference: log-probabilities of {len(dataset):,} rows read from the cache")
    return _with_column(dataset, found, key)


def _compute(
    run: Run, trainer: PackedTrainer, reference: Reference, dataset: Dataset, collate: Collate
) -> dict[str, Tensor]:
    """Of this process's share, a contiguous part of the rows: the labels of each row, and their values; on the CPU."""
    process, processes, size = trainer.args.process_index, trainer.args.world_size, trainer.args.eval_batch_size
    share = range(len(dataset) * process // processes, len(dataset) * (process + 1) // processes)
    lengths, values = [torch.empty(0, dtype=torch.long)], [torch.empty(0)]
    told = 0

    def batch_of(rows: Sequence[int]) -> PackedBatch:
        return trainer._prepare_inputs(collate([dataset[row] for row in rows]))  # type: ignore[no-any-return]  # untyped base

    with reference.applied() as model, trainer.accelerator.autocast():
        first = batch_of(range(min(size, len(dataset))))
        trainer.engine.check(first)
        trainer.engine.log_probs(first, model)  # another model checks itself; all processes must do so at once
        for start in range(share.start, share.stop, size):
            rows = share[start - share.start :][:size]
            batch = batch_of(rows)
            found = trainer.engine.log_probs(batch, model)
            counts = per_sequence(batch, torch.ones_like(found)).view(len(rows), -1).sum(1)
            lengths.append(counts.long().cpu())
            values.append(found.cpu())
            done = rows[-1] + 1 - share.start
            if done * LINES // len(share) > told:
                told = done * LINES // len(share)
                run.tell(f"reference: log-probabilities of {done:,} of {len(share):,} rows")
    return {"lengths": torch.cat(lengths), "values": torch.cat(values)}


def _key(trainer: PackedTrainer, reference: Reference, dataset: Dataset) -> str:
    """What the values depend on: the content of the data, the weights, the number format and the step."""
    hasher = blake3(max_threads=blake3.AUTO)
    for table in dataset.with_format("arrow").iter(1000):
        for batch in table.combine_chunks().to_batches():
            hasher.update(batch.serialize())
    precision = trainer.accelerator.mixed_precision
    hasher.update(f"{reference.digest()} {precision} {trainer.engine.packed} {type(trainer).__qualname__}".encode())
    return str(hasher.hexdigest()[:32])


def _read(path: Path, run: Run) -> dict[str, Tensor] | None:
    """What the cache holds, if it is as it was written."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in ("lengths", "values")}
            intact = (file.metadata() or {}).get("blake3") == _digest(found)
    except (OSError, SafetensorError):
        intact = False
    if intact:
        return found
    run.decide(f"the cached reference {path.name} is damaged: it is computed again")
    return None


def _write(path: Path, found: dict[str, Tensor]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(found, temporary, metadata={"blake3": _digest(found)})
    except (OSError, SafetensorError) as error:
        raise EnvironmentProblem(
            f"the reference's log-probabilities cannot be written: {error}",
            where=str(path.parent),
            remedy="make room there, or choose another folder with cache_dir",
        ) from error


def _digest(found: Mapping[str, Tensor]) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    for name in sorted(found):
        hasher.update(_bytes(found[name]))
    return str(hasher.hexdigest())


def _bytes(values: Tensor) -> Any:
    """The bytes of a tensor of any dtype, as they lie in memory."""
    return values.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data


def _with_column(dataset: Dataset, found: Mapping[str, Tensor], key: str) -> Dataset:
    import pyarrow as pa

    offsets = [0, *accumulate(found["lengths"].tolist())]
    values = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(found["values"].numpy()))
    return dataset.add_column(COLUMN, values, new_fingerprint=key)
