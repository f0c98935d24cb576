"""Each common training key acts: its run differs from the plain one in the way that the key says."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.errors import ConfigError, Problems
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ft_hookspecs import Run

    Execute = Callable[..., Run]

ROWS = [
    {"instruction": f"What is the colour of stone {name}?" + " Think." * place, "output": f"Stone {name} is red."}
    for place, name in enumerate("abcdefgh")
]
STEPS, RATE = 10, 1e-3


@pytest.fixture
def words(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., list[str]]:
    path = tmp_path / "stones.json"
    path.write_text(json.dumps(ROWS))

    def build(**changes: Any) -> list[str]:
        values = {
            "model_name_or_path": tiny_model_dir, "dataset": path, "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache", "finetuning_type": "full", "learning_rate": RATE, "max_steps": 3,
            "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no", "use_cpu": True,
            "overwrite_output_dir": True, **changes,
        }  # fmt: skip
        return [f"{key}={value if isinstance(value, str) else json.dumps(value, default=str).strip(chr(34))}"
                for key, value in values.items()]  # fmt: skip

    return build


@pytest.fixture
def execute(words: Callable[..., list[str]]) -> Execute:
    return lambda **changes: run_lifecycle(*make_plan(None, words(**changes)), print)


@pytest.fixture
def problems(words: Callable[..., list[str]]) -> Callable[..., str]:
    def plan(**changes: Any) -> str:
        with pytest.raises(Problems) as caught:
            make_plan(None, words(**changes))
        return str(caught.value)

    return plan


def logged(run: Run, key: str = "loss") -> list[Any]:
    return [row[key] for row in run.trainer.state.log_history if key in row]


def steps_of(run: Run, key: str) -> list[int]:
    return [row["step"] for row in run.trainer.state.log_history if key in row]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


# ---- the learning rate of ten steps, as formulas say


def warmed(step: int, warmup: int, after: Callable[[float], float]) -> float:
    """Linear from 0 over the warm-up, then ``after`` of the share of the rest that is done."""
    return step / warmup if step < warmup else after((step - warmup) / (STEPS - warmup))


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


SCHEDULES: list[tuple[str, Mapping[str, Any], int, Callable[[int], float]]] = [
    ("linear", {}, 0, lambda step: 1 - step / STEPS),
    ("linear", {}, 4, lambda step: warmed(step, 4, lambda share: 1 - share)),
    ("cosine", {}, 2, lambda step: warmed(step, 2, cosine)),
    ("cosine_with_restarts", {"num_cycles": 2}, 0, lambda step: cosine(2 * step / STEPS % 1)),
    ("polynomial", {"power": 2, "lr_end": 1e-4}, 0, lambda step: 0.9 * (1 - step / STEPS) ** 2 + 0.1),
    ("constant", {}, 0, lambda _: 1.0),
    ("constant_with_warmup", {}, 5, lambda step: min(1.0, step / 5)),
    ("inverse_sqrt", {"timescale": 4}, 2, lambda step: step / 2 if step < 2 else 1 / math.sqrt((step + 2) / 4)),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2}, 0, lambda step: 0.8 * cosine(step / STEPS) + 0.2),
    (
        "warmup_stable_decay",
        {"num_decay_steps": 4, "decay_type": "linear"},
        2,
        lambda step: step / 2 if step < 2 else min(1.0, (STEPS - step) / 4),
    ),
]


@pytest.mark.parametrize(("name", "given", "warmup", "formula"), SCHEDULES)
def test_schedules(
    execute: Execute, name: str, given: Mapping[str, Any], warmup: int, formula: Callable[[int], float]
) -> None:
    kwargs = {"lr_scheduler_kwargs": given} if given else {}
    run = execute(max_steps=STEPS, lr_scheduler_type=name, warmup_steps=warmup, **kwargs)
    assert logged(run, "learning_rate") == pytest.approx([RATE * formula(step) for step in range(STEPS)], abs=1e-12)


def test_a_rate_that_falls_on_a_plateau(execute: Execute, tmp_path: Path) -> None:
    """After each evaluation but the first that is no better by ``threshold``, here more than any loss: half as much."""
    run = execute(
        max_steps=8, lr_scheduler_type="reduce_lr_on_plateau", eval_dataset=tmp_path / "stones.json",
        lr_scheduler_kwargs={"factor": 0.5, "patience": 0, "threshold": 100.0, "threshold_mode": "abs"},
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    rates = [rate / RATE for rate in logged(run, "learning_rate")]
    assert rates == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_a_plateau_of_what_is_not_measured(execute: Execute, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval_accuracy is not measured\n  why: the evaluation gives eval_loss"):
        execute(
            lr_scheduler_type="reduce_lr_on_plateau", eval_dataset=tmp_path / "stones.json", eval_strategy="steps",
            eval_steps=1, metric_for_best_model="accuracy", lr_scheduler_kwargs={"mode": "max"},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lr_scheduler_type": "warmup_stable_decay"}, "needs num_decay_steps"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "needs min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5, "min_lr_rate": 0.1}},
         "one of them"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "needs evaluations"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "accuracy"}, "less accuracy"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "max"}}, r"\{mode: min\}"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "most"}}, r"\{mode: min\}"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"power": 2}}, "does not take power"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "two"}}, "power is 'two'"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": "low"}}, "lr_end is 'low'"),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "(?s)timescale is 0.*greater"),
        ({"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 0}}, "num_cycles is 0"),
        ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": -3}}, "is -3"),
        ({"lr_scheduler_type": "warmup_stable_decay",
          "lr_scheduler_kwargs": {"num_decay_steps": 1, "decay_type": "lin"}}, "(?s)decay_type is 'lin'.*1-sqrt"),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 2}}, "min_lr_rate is 2"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}}, r"did you mean 'power'"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1}}, "the end must be the lower one"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "constant_with_warmup"),
        ({"lr_scheduler_kwargs": "power"}, "not a mapping"),
        ({"lr_scheduler_type": "cosin"}, "did you mean"),
        ({"label_smoothing_factor": 0.1}, "is not available"),
        ({"fp16": True}, "fp16 training needs a GPU"),
        ({"bf16": True, "pure_bf16": True}, "cannot both be true"),
        ({"early_stopping_steps": 2}, "needs load_best_model_at_end"),
        ({"save_strategy": "best", "val_size": 2}, "needs evaluations while training"),
        ({"early_stopping_steps": 0}, "early_stopping_steps"),
        ({"load_best_model_at_end": True}, "no data to evaluate on"),
        ({"num_beams": 2, "eval_num_beams": 4}, "both given"),
        ({"use_eaft_loss": True}, "is not available"),
        ({"use_asft_loss": True}, "is not available"),
        ({"stage": "pt", "train_on_prompt": True}, "stages:sft"),
        ({"stage": "pt", "do_predict": True}, "predicts nothing"),
    ],
)  # fmt: skip
def test_what_cannot_act_is_refused_while_planning(
    problems: Callable[..., str], keys: Mapping[str, Any], message: str
) -> None:
    import re

    assert re.search(message, problems(**keys))


def test_a_fall_longer_than_the_run_is_refused_and_a_warm_up_is_told(execute: Execute) -> None:
    kwargs = {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 1}
    with pytest.raises(ConfigError, match=r"is 3, and behind the warm-up the run has 2 of 3 steps(?s:.*)at most 2"):
        execute(**kwargs, lr_scheduler_kwargs={"num_decay_steps": 3})
    fits = execute(**kwargs, lr_scheduler_kwargs={"num_decay_steps": 2})
    assert logged(fits, "learning_rate")[1] == pytest.approx(RATE)
    line = "the warm-up of 9 steps is not over when the run ends, after 3"
    assert line in execute(warmup_steps=9).decisions
    assert line not in execute(warmup_steps=2).decisions


def test_values_are_known_of_every_key_that_a_schedule_takes() -> None:
    from ft.schedules import HEEDED, Words

    assert set().union(*HEEDED.values()) == set(Words.model_fields)


def test_schedules_know_what_transformers_takes() -> None:
    """A release of transformers with other keyword arguments or schedules shows here."""
    import inspect

    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    from ft.schedules import HEEDED

    ours = {"optimizer", "last_epoch", "num_warmup_steps", "num_training_steps", "kwargs"}
    for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items():
        if kind.value in HEEDED and kind.value != "reduce_lr_on_plateau":
            assert HEEDED[kind.value] == inspect.signature(function).parameters.keys() - ours, kind
    plateau = inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters.keys() - ours - {"self"}
    assert HEEDED["reduce_lr_on_plateau"] == plateau


def test_names_of_older_files(words: Callable[..., list[str]]) -> None:
    plan, _ = make_plan(None, words(generation_max_length=300, eval_num_beams=3))
    assert (plan.get("max_length"), plan.get("num_beams")) == (300, 3)
    assert make_plan(None, words(generation_num_beams=2))[0].get("num_beams") == 2
    assert sum("is now" in note for note in plan.notes) == 2


# ---- number formats


def test_number_formats(execute: Execute) -> None:
    plain, bf16, pure = execute(), execute(bf16=True), execute(pure_bf16=True)
    weights = {name: next(run.model.parameters()).dtype for name, run in (("bf16", bf16), ("pure", pure))}
    assert weights == {"bf16": torch.float32, "pure": torch.bfloat16}
    for run in (bf16, pure):
        assert logged(run) != logged(plain)
        assert logged(run) == pytest.approx(logged(plain), rel=0.03)
    assert logged(execute(bf16=False)) == logged(plain)


# ---- batches


def test_accumulation_is_a_larger_batch(execute: Execute) -> None:
    whole, parts = execute(), execute(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert logged(parts) == pytest.approx(logged(whole), rel=1e-5)
    assert logged(parts, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)
    assert logged(execute(per_device_train_batch_size=2)) != pytest.approx(logged(whole), rel=1e-3)


def test_seeds(execute: Execute) -> None:
    one, same, other = execute(seed=1), execute(seed=1), execute(seed=2)
    assert logged(one) == logged(same) != logged(other)
    order = [logged(execute(seed=seed, data_seed=7))[0] for seed in (1, 2)]
    assert order[0] == order[1] != logged(execute(seed=1, data_seed=8))[0]


def test_the_order_of_the_data(execute: Execute) -> None:
    def lengths(**keys: Any) -> list[int]:
        seen = logged(execute(per_device_train_batch_size=1, max_steps=8, **keys), "num_input_tokens_seen")
        return [after - before for before, after in zip([0, *seen], seen, strict=False)]

    plain = lengths()
    assert lengths(disable_shuffling=True) == sorted(plain) != plain  # the rows of the file grow longer
    grouped = lengths(group_by_length=True)
    assert grouped[0] == max(plain) != plain[0]  # the longest batch comes first
    assert sorted(grouped) == sorted(plain)


# ---- the step


def moved(run: Run, start: Mapping[str, torch.Tensor]) -> float:
    parameters: Any = run.model.named_parameters()
    return math.sqrt(sum((value.detach() - start[name].detach()).square().sum().item() for name, value in parameters))


def test_clipping_and_decay(execute: Execute, tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    start = dict(AutoModelForCausalLM.from_pretrained(tiny_model_dir).named_parameters())
    still = {"max_steps": 1, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    sgd = {**still, "optim": "sgd"}
    free = execute(**sgd, max_grad_norm=0)
    norm = logged(free, "grad_norm")[0]
    assert moved(free, start) == pytest.approx(1e-2 * norm, rel=1e-3)
    assert moved(execute(**sgd, max_grad_norm=0.01), start) == pytest.approx(1e-2 * 0.01, rel=1e-3)
    plain, decayed = (dict(execute(**still, weight_decay=decay).model.named_parameters()) for decay in (0.0, 0.5))
    for name, value in plain.items():
        expected = value - 1e-2 * 0.5 * start[name] * (0 if "norm" in name else 1)
        torch.testing.assert_close(decayed[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("optim", "name"),
    [("adamw_torch", "AdamW"), ("adamw_torch_fused", "AdamW"), ("sgd", "SGD"), ("adagrad", "Adagrad"),
     ("rmsprop", "RMSprop"), ("adafactor", "Adafactor")],
)  # fmt: skip
def test_optimizers(execute: Execute, optim: str, name: str) -> None:
    run = execute(optim=optim)
    optimizer = run.trainer.optimizer.optimizer
    assert type(optimizer).__name__ == name
    assert bool(optimizer.defaults.get("fused")) is (optim == "adamw_torch_fused")
    assert logged(run)[-1] < logged(run)[0]


def test_the_constants_of_the_optimizer(execute: Execute) -> None:
    keys = {"adam_beta1": 0.5, "adam_beta2": 0.6, "adam_epsilon": 1e-3}
    run = execute(**keys)
    defaults = run.trainer.optimizer.optimizer.defaults
    assert (*defaults["betas"], defaults["eps"]) == (0.5, 0.6, 1e-3)
    assert logged(run)[1:] != logged(execute())[1:]


# ---- how long, and what is written when


def test_steps_and_epochs(execute: Execute) -> None:
    assert steps_of(execute(max_steps=-1, num_train_epochs=2), "loss") == [1, 2, 3, 4]
    assert steps_of(execute(max_steps=5, num_train_epochs=1), "loss") == [1, 2, 3, 4, 5]


def test_logging(execute: Execute) -> None:
    assert steps_of(execute(max_steps=5, logging_steps=2), "loss") == [2, 4, 5]
    assert steps_of(execute(max_steps=4, logging_strategy="epoch"), "loss") == [2, 4]
    assert steps_of(execute(max_steps=4, logging_steps=3, logging_first_step=True), "loss") == [1, 3, 4]


def test_saving(execute: Execute, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    execute(max_steps=6, save_strategy="steps", save_steps=2)
    assert checkpoints(folder) == [2, 4, 6]
    execute(max_steps=6, save_strategy="steps", save_steps=2, save_total_limit=1)
    assert checkpoints(folder) == [6]
    execute(max_steps=4, save_strategy="epoch")
    assert checkpoints(folder) == [2, 4]
    worse = {"optim": "sgd", "learning_rate": 0.3, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    run = execute(
        max_steps=4, save_strategy="best", eval_dataset=tmp_path / "stones.json", eval_strategy="steps", eval_steps=1,
        **worse,
    )  # fmt: skip
    measured = logged(run, "eval_loss")
    better = [step for step, loss in enumerate(measured, 1) if loss < min([*measured[: step - 1], math.inf])]
    assert checkpoints(folder) == better
    assert len(better) < 4
    execute(max_steps=4)
    assert checkpoints(folder) == []


def test_resuming(execute: Execute, tmp_path: Path) -> None:
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False}
    whole = execute(**saving)
    for named in (True, tmp_path / "out" / "checkpoint-4"):
        again = execute(**saving, resume_from_checkpoint=named)
        assert logged(again) == logged(whole)
        for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_what_is_asked_for_when_going_on_acts(execute: Execute, tmp_path: Path) -> None:
    """A run that had ended at a rate of 0 goes on at that of the longer one; nothing of the step is the old run's."""
    saving = {"save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False, "max_grad_norm": 0}
    execute(**saving, max_steps=2)
    execute(**saving, max_steps=2, output_dir=tmp_path / "other")
    longer = execute(**saving, max_steps=4, resume_from_checkpoint=True)
    assert logged(longer, "learning_rate")[2:] == pytest.approx([RATE / 2, RATE / 4])
    again = {**saving, "max_steps": 4, "resume_from_checkpoint": tmp_path / "other" / "checkpoint-2"}
    other = execute(**again, output_dir=tmp_path / "other", learning_rate=2 * RATE, weight_decay=0.5, adam_beta1=0.5)
    assert logged(other, "learning_rate")[2:] == pytest.approx([RATE, RATE / 2])
    group = other.trainer.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"][0], group["initial_lr"]) == (0.5, 0.5, 2 * RATE)
    assert logged(other)[2] == logged(longer)[2]  # the same weights
    assert logged(other)[3] != logged(longer)[3]


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ({"finetuning_type": "lora", "lora_rank": 8}, {"lora_rank": 4}, "size mismatch"),
        ({"finetuning_type": "lora", "lora_target": "q_proj"}, {"lora_target": "all"}, "parameter group"),
        ({"finetuning_type": "lora", "lora_target": "all"}, {"lora_target": "q_proj"}, "parameter group"),
    ],
)
def test_a_checkpoint_of_other_weights_is_refused(
    execute: Execute, before: dict[str, Any], now: dict[str, Any], why: str
) -> None:
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "overwrite_output_dir": False}
    execute(**saving, **before)
    with pytest.raises(ConfigError, match=r"holds other weights or another optimizer") as caught:
        execute(**saving | before | now, resume_from_checkpoint=True)
    assert why in caught.value.why


def test_another_optimizer_does_not_go_on(execute: Execute, problems: Callable[..., str]) -> None:
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "overwrite_output_dir": False}
    execute(**saving)
    assert "the run to resume had optim: adamw" in problems(**saving, optim="sgd", resume_from_checkpoint=True)


def test_a_finished_run_that_is_resumed_has_no_loss_of_its_own(execute: Execute) -> None:
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "overwrite_output_dir": False}
    assert "train_loss" in execute(**saving).metrics
    assert "train_loss" not in execute(**saving, resume_from_checkpoint=True).metrics


def test_evaluating(execute: Execute, tmp_path: Path) -> None:
    data = {"eval_dataset": tmp_path / "stones.json", "max_steps": 4}
    assert steps_of(execute(**data, eval_strategy="steps", eval_steps=3), "eval_loss") == [3, 4]
    assert steps_of(execute(**data, eval_strategy="epoch"), "eval_loss") == [2, 4]
    assert steps_of(execute(**data, eval_strategy="steps", eval_steps=1, eval_delay=2), "eval_loss") == [2, 3, 4]
    alone = execute(**data, do_train=False, do_eval=True)
    assert alone.metrics["eval_loss"] == pytest.approx(execute(**data, eval_on_start=True).metrics["eval_loss_before"])
    assert logged(alone) == []
    assert not (tmp_path / "out" / "checkpoint-4").exists()


def test_the_best_model_is_kept_and_training_stops_early(execute: Execute, tmp_path: Path) -> None:
    """A learning rate that is far too large: the first evaluation stays the best, two later ones are waited for."""
    run = execute(
        eval_dataset=tmp_path / "stones.json", learning_rate=0.3, lr_scheduler_type="constant", max_steps=20,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        early_stopping_steps=2, optim="sgd", max_grad_norm=0, eval_on_start=False,
    )  # fmt: skip
    *measured, last = logged(run, "eval_loss")  # the last one is that of the model that is kept
    best = measured.index(min(measured))
    assert len(measured) == best + 3 < 20
    assert run.metrics["eval_loss"] == last == pytest.approx(measured[best])
    again = execute(
        eval_dataset=tmp_path / "stones.json", model_name_or_path=str(tmp_path / "out"), do_train=False, do_eval=True,
        output_dir=tmp_path / "again",
    )  # fmt: skip
    assert again.metrics["eval_loss"] == pytest.approx(measured[best])


# ---- plain text


def test_blocks_of_plain_text(execute: Execute, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": row["output"] * 2}) + "\n" for row in ROWS))
    keys = {"stage": "pt", "dataset": text, "eval_dataset": text, "cutoff_len": 64, "max_steps": 4}
    joined, apart = execute(**keys), execute(**keys, packing=False)
    lengths = {name: list(run.train_dataset["length"]) for name, run in (("joined", joined), ("apart", apart))}
    assert set(lengths["joined"][:-1]) == {64}
    assert len(lengths["apart"]) == len(ROWS)
    assert sum(lengths["apart"]) == sum(lengths["joined"])
    assert execute(**keys, packing=True).metrics["eval_loss"] == joined.metrics["eval_loss"]
    assert joined.metrics["eval_perplexity"] == pytest.approx(math.exp(joined.metrics["eval_loss"]))
