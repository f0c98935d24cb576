"""The reference is the model before its first step, whatever trains, and its log-probabilities are computed once."""

from __future__ import annotations

import gc
import os
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ft.errors import DataError, EnvironmentProblem
from ft.options import ReferenceOptions
from ft.testing import tiny_model
from ft.training import Engine, PackedTrainer, Reference, attach_value_head, evaluating, pack, precompute, reference_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn
    from transformers import TrainingArguments

    Build = Callable[..., nn.Module]
    Arguments = Callable[..., TrainingArguments]
    Features = list[dict[str, Any]]

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def policy(build: Build, start: str) -> nn.Module:
    """A model as it is before a preference stage; all but ``full`` and ``new`` come from SFT."""
    if start == "full":
        return build("llama")
    if start == "continued":
        return build("llama", "lora")
    base: Any = tiny_model("llama") if start == "new" else build("llama", "lora").merge_and_unload()
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(**LORA)).train()


def before_it(build: Build, start: str) -> nn.Module:
    """The model that the reference must be, made another way."""
    if start in ("full", "new"):
        return tiny_model("llama").eval()
    return build("llama", "lora").eval()


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("start", ["full", "new", "continued", "create_new_adapter"])
def test_rewards_are_zero_at_first_and_the_reference_stays(
    build: Build, features: Features, start: str, attention: Any
) -> None:
    model, batch = policy(build, start), pack(features)
    engine, reference = Engine(model, attention), Reference.of_start(model)
    with evaluating(model), torch.no_grad():
        first = engine.log_probs(batch)
    with reference.applied() as applied:
        assert not torch.is_grad_enabled()
        assert not applied.training
        expected = engine.log_probs(batch, applied)
    assert model.training
    assert torch.equal(first, expected)  # rewards of exactly 0
    same = Engine(before_it(build, start), attention).log_probs(batch)
    torch.testing.assert_close(expected, same, rtol=1e-5, atol=1e-5)
    digest = reference.digest()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        engine.cross_entropy(batch, 10).backward()
        optimizer.step()
        with reference.applied() as applied:
            assert torch.equal(engine.log_probs(batch, applied), expected)
    kept = [(parameter.data_ptr(), parameter.detach().clone()) for parameter in trained]
    with reference.applied():
        pass
    assert reference.digest() == digest
    assert all(
        parameter.data_ptr() == place and torch.equal(parameter, value)
        for parameter, (place, value) in zip(trained, kept, strict=True)
    )
    with evaluating(model), torch.no_grad():
        assert not torch.allclose(engine.log_probs(batch), expected)


def test_weights_come_back_after_an_error(build: Build) -> None:
    model = build()
    reference = Reference.of_start(model)
    weight = model.lm_head.weight
    weight.data += 1
    moved = weight.detach().clone()

    def fail_inside() -> None:
        with reference.applied():
            assert not torch.equal(weight, moved)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(weight, moved)
    assert model.training


def test_a_model_of_its_own_is_frozen(build: Build, features: Features) -> None:
    engine, other = Engine(build()), build("qwen3")
    reference = Reference.of_model(other)
    assert not any(parameter.requires_grad for parameter in other.parameters())
    with reference.applied() as model:
        found = engine.log_probs(pack(features), model)
    torch.testing.assert_close(found, Engine(build("qwen3").eval(), "padded").log_probs(pack(features)))


def test_a_model_of_its_own_comes_to_the_device_of_the_batch(build: Build, features: Features) -> None:
    engine, other = Engine(build()), build("qwen3").to("meta")
    moved: list[Any] = []

    def to(device: Any) -> None:
        moved.append(device)
        other.to_empty(device=device)

    other.to = to  # what is elsewhere here is nowhere
    engine.log_probs(pack(features), other)
    engine.log_probs(pack(features), other)
    assert moved == [torch.device("cpu")]


def test_a_model_that_is_forgotten_is_gone(build: Build, features: Features) -> None:
    engine, other = Engine(build()), build("qwen3")
    engine.log_probs(pack(features), other)
    seen = weakref.ref(other)
    engine.forget(other)
    del other
    gc.collect()
    assert seen() is None


def test_the_digest_tells_weights_and_scales_apart(build: Build) -> None:
    model = build("llama", "lora")
    digest = Reference.of_start(model).digest()
    assert Reference.of_start(build("llama", "lora")).digest() == digest
    model.peft_config["default"].lora_alpha = 9
    assert Reference.of_start(model).digest() != digest
    model.peft_config["default"].lora_alpha = 8
    next(model.parameters()).data[0, 0] += 1e-3
    assert Reference.of_start(model).digest() != digest


def test_the_digest_is_the_same_in_each_process(build: Build) -> None:
    """The order of a set depends on the process, and on the order of insertion, which stands for it here."""
    model, digests = build("llama", "lora"), []
    for modules in ({0, 8}, {8, 0}):
        model.peft_config["default"].target_modules = modules
        digests.append((repr(modules), Reference.of_start(model).digest()))
    (one, digest), (other, again) = digests
    assert one != other
    assert digest == again


# ---- what the keys ask for


def run_of(tmp_path: Path, **changes: Any) -> Any:
    lines: list[str] = []
    values = {"cache_dir": str(tmp_path / "cache"), **changes.pop("values", {})}
    plan = SimpleNamespace(get=lambda key, default=None: values.get(key, default))
    return SimpleNamespace(plan=plan, decide=lines.append, tell=lines.append, lines=lines, **changes)


def tokenizer(*words: str) -> Any:
    return SimpleNamespace(get_vocab=lambda: {word: number for number, word in enumerate(words)})


def test_the_reference_is_chosen_by_the_keys(build: Build, tmp_path: Path) -> None:
    model = build()
    assert reference_for(run_of(tmp_path, model=model)).model is model
    asked: list[Any] = []

    def load(*names: Any) -> Any:
        asked.append(names)
        return SimpleNamespace(model=build("qwen2"), tokenizer=tokenizer("a", "b"))

    keys = {"ref_model": "org/other", "ref_model_adapters": "x,y"}
    run = run_of(tmp_path, model=model, tokenizer=tokenizer("a", "b"), load_other=load, values=keys)
    assert reference_for(run).model is not model
    assert asked == [("org/other", "x,y", None)]
    run.tokenizer = tokenizer("b", "a")
    with pytest.raises(DataError, match="another vocabulary"):
        reference_for(run)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"ref_model_adapters": "x"}, "without ref_model"),
        ({"ref_model_quantization_bit": 4}, "without ref_model"),
        ({"ref_model": "a", "ref_model_quantization_bit": 9}, "less than or equal"),
        ({"ref_model": "a", "ref_model_adapters": "x,y", "ref_model_quantization_bit": 4}, "rounded again"),
    ],
)
def test_keys_that_say_nothing_are_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ReferenceOptions(**keys)


# ---- computed once


class Pairs(PackedTrainer):
    def collate(self, features: Sequence[Any]) -> Any:
        return pack([pair(feature) for feature in features])


def pair(feature: Any) -> dict[str, Any]:
    branches = [{"input_ids": feature[side], "labels": feature[side]} for side in ("chosen_ids", "rejected_ids")]
    known = {"reference": feature["reference"]} if "reference" in feature else {}
    return {"prompt_ids": feature["prompt_ids"], "branches": branches, **known}


def dataset() -> Dataset:
    draw = torch.Generator().manual_seed(4)

    def column(lengths: Sequence[int]) -> list[list[int]]:
        return [torch.randint(4, 384, (length,), generator=draw).tolist() for length in lengths]

    columns = {"prompt_ids": (6, 9, 3, 12, 5), "chosen_ids": (4, 7, 2, 1, 9), "rejected_ids": (5, 3, 8, 2, 6)}
    return Dataset.from_dict({name: column(lengths) for name, lengths in columns.items()})


def trainer_of(build: Build, arguments: Arguments, tuning: str = "lora", **settings: Any) -> Pairs:
    return Pairs(build("llama", tuning), arguments(per_device_eval_batch_size=2, **settings))


@pytest.mark.parametrize("attention", ["auto", "padded"])
def test_every_label_has_its_reference(build: Build, arguments: Arguments, tmp_path: Path, attention: str) -> None:
    trainer = Pairs(build("llama", "lora"), arguments(per_device_eval_batch_size=2), attention=attention)
    run, reference = run_of(tmp_path), Reference.of_start(trainer.model)
    found = precompute(run, trainer, reference, dataset())
    assert found.column_names == [*dataset().column_names, "reference"]
    batch = trainer.collate(list(found))
    with reference.applied() as model:
        expected = trainer.engine.log_probs(batch, model)
    torch.testing.assert_close(batch["reference"], expected, rtol=1e-5, atol=1e-5)
    assert [line for line in run.lines if "of 5 rows" in line][-1].startswith("reference: log-probabilities of 5 of")


def test_it_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, build: Build, arguments: Arguments, tmp_path: Path
) -> None:
    trainer = trainer_of(build, arguments)
    data, reference = dataset(), Reference.of_start(trainer.model)
    first = precompute(run_of(tmp_path), trainer, reference, data)
    with monkeypatch.context() as patched:
        patched.setattr("ft.training.reference._compute", lambda *_: pytest.fail("it was computed again"))
        assert precompute(run_of(tmp_path), trainer_of(build, arguments), reference, dataset())[:] == first[:]
        for other, weights in ((data.select([1, 0, 2, 3, 4]), reference), (data, Reference.of_model(build("qwen2")))):
            with pytest.raises(pytest.fail.Exception, match="computed again"):
                precompute(run_of(tmp_path), trainer, weights, other)
    [path] = (tmp_path / "cache" / "reference").iterdir()
    for damage in (b"torn", path.read_bytes()[:-4], path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])):
        path.write_bytes(damage)
        run = run_of(tmp_path)
        assert precompute(run, trainer, reference, data)[:] == first[:]
        assert any("damaged" in line for line in run.lines)


def test_a_cache_that_cannot_be_written_is_an_error(build: Build, arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    trainer = trainer_of(build, arguments)
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        precompute(run_of(tmp_path), trainer, Reference.of_start(trainer.model), dataset())


def test_precomputing_does_not_change_what_follows(build: Build, arguments: Arguments, tmp_path: Path) -> None:
    trainer = trainer_of(build, arguments)
    attach_value_head(trainer.model)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    state = torch.get_rng_state()
    precompute(run_of(tmp_path), trainer, Reference.of_start(trainer.model), dataset())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())
    assert trainer.model.training


# ---- two processes


def precompute_as(rank: int, world: int, port: int, folder: str) -> None:
    """One process of a gloo group, or the whole of a single one; writes what its data set holds, and what it said."""
    from pathlib import Path

    from transformers import TrainingArguments

    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    args = TrainingArguments(f"{folder}/out", use_cpu=True, report_to=[], per_device_eval_batch_size=2)
    trainer = Pairs(tiny_model("llama"), args)
    for rows in (5, 1):  # one row: a process without any
        run = run_of(Path(folder) / str(world))
        found = precompute(run, trainer, Reference.of_start(trainer.model), dataset().select(range(rows)))
        values: Tensor = torch.tensor([value for row in found["reference"] for value in row])
        save_file({"values": values}, f"{folder}/{world}-{rank}-{rows}.safetensors")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_compute_a_share_each(tmp_path: Path) -> None:
    import socket

    import torch.multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    for world in (1, 2):
        group = [
            context.Process(target=precompute_as, args=(rank, world, port, str(tmp_path))) for rank in range(world)
        ]
        for process in group:
            process.start()
        for process in group:
            process.join(120)
            assert process.exitcode == 0
    for rows in (5, 1):
        one, first, second = (
            load_file(tmp_path / f"{name}-{rows}.safetensors")["values"] for name in ("1-0", "2-0", "2-1")
        )
        assert torch.equal(first, second)
        torch.testing.assert_close(first, one, rtol=1e-5, atol=1e-5)
