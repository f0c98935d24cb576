"""Reward models: the loss is the paper's and TRL's, they learn, are saved, are found again, and predict."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification, TrainingArguments

from ft.errors import DataError, Problems
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan
from ft.testing import tiny_model
from ft.training import attach_value_head
from ft_plugins.stages._trainers.pairs import as_branches
from ft_plugins.stages._trainers.rm import PairwiseTrainer, pair_metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ft_hookspecs import Run

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
PAIRS = [
    {"instruction": f"What colour is stone {name}?", "chosen": f"It is {colour}.", "rejected": "I do not know, sorry."}
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
]


def ids(*sizes: int, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 384, (size,), generator=draw).tolist() for size in sizes]


def feature(prompt: int, chosen: int, rejected: int, seed: int) -> dict[str, Any]:
    """A pair of answers whose last token, the template's, is no label."""
    start, better, worse = ids(prompt, chosen, rejected, seed=seed)
    return {
        "prompt_ids": start,
        "chosen_ids": [*better, 5],
        "chosen_labels": [*better, -100],
        "rejected_ids": [*worse, 5],
        "rejected_labels": [*worse, -100],
    }


FEATURES = [feature(9, 5, 12, 1), feature(1, 1, 7, 2), feature(20, 6, 2, 3), feature(4, 9, 9, 4)]


@pytest.fixture(params=["full", "lora"])
def model(request):
    made = tiny_model()
    if request.param == "lora":
        made = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        draw = torch.Generator().manual_seed(1)
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.1, generator=draw)
    torch.manual_seed(3)
    attach_value_head(made, scores_only=True)
    return made.train()


@pytest.fixture
def trainer(tmp_path) -> Callable[..., PairwiseTrainer]:
    def make(model, attention="auto") -> PairwiseTrainer:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], remove_unused_columns=False)
        return PairwiseTrainer(model, arguments, attention=attention)

    return make


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def by_definition(model) -> torch.Tensor:
    """The mean over pairs of -log σ(r_chosen - r_rejected), a pair at a time, unpadded, in the model's own dtype."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    losses = []
    for pair in FEATURES:
        scores = []
        for side in ("chosen", "rejected"):
            tokens = torch.tensor([pair["prompt_ids"] + pair[f"{side}_ids"][:-1]])
            hidden = base.model(input_ids=tokens, use_cache=False).last_hidden_state[0, -1]
            scores.append(hidden @ base.v_head.summary.weight[0] + base.v_head.summary.bias[0])
        losses.append(torch.log1p(torch.exp(-(scores[0] - scores[1]))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_loss_and_gradients_are_those_of_the_definition_in_float64(model, trainer, attention):
    exact = copy.deepcopy(model).double()
    exact_loss = by_definition(exact)
    exact_loss.backward()
    ours = trainer(model, attention)
    batch = ours.collate(FEATURES)
    assert ours.items(batch) == 4
    loss = ours.loss(model, batch, 4)
    loss.backward()
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-5)
    expected, found = gradients(exact), gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.fixture(scope="module")
def trl_loss():
    """The loss of TRL's reward trainer, on a sequence classifier."""
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    def compute(model, features, tmp_path) -> torch.Tensor:
        from datasets import Dataset

        from ft.testing import tiny_tokenizer

        rows = [
            {side: each["prompt_ids"] + each[side][:-1] for side in ("chosen_ids", "rejected_ids")} for each in features
        ]
        arguments = RewardConfig(
            str(tmp_path), use_cpu=True, report_to=[], bf16=False, max_length=None, gradient_checkpointing=False
        )
        theirs = RewardTrainer(
            model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer()
        )
        return theirs.compute_loss(model, DataCollatorForPreference(pad_token_id=3)(rows))

    return compute


def test_loss_and_gradients_are_those_of_trl(trainer, trl_loss, tmp_path):
    model = tiny_model().train()
    head = attach_value_head(model, scores_only=True)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    classifier = LlamaForSequenceClassification(config).train()
    classifier.model.load_state_dict(model.model.state_dict())
    classifier.score.weight.data.copy_(head.summary.weight.data)
    theirs = trl_loss(classifier, FEATURES, tmp_path)
    theirs.backward()
    ours = trainer(model)
    loss = ours.loss(model, ours.collate(FEATURES), 4)
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = gradients(classifier)
    expected["v_head.summary.weight"] = expected.pop("score.weight")
    found = gradients(model)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_an_answer_is_scored_at_its_last_label(trainer):
    branches = as_branches(FEATURES[0])["branches"]
    assert [branch["input_ids"] for branch in branches] == [
        FEATURES[0]["chosen_ids"][:-1],
        FEATURES[0]["rejected_ids"][:-1],
    ]


def test_equal_scores_are_no_success():
    metrics = pair_metrics(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
    assert metrics["rewards/accuracies"].tolist() == [0.0, 1.0, 0.0]
    assert metrics["rewards/margins"].tolist() == [0.0, 1.0, -1.0]


# ---- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def execute(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Run]:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    described = {"pairs": {"file_name": "pairs.json", "ranking": True}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(described))

    def go(**changes: Any) -> Run:
        keys = {
            "stage": "rm",
            "model_name_or_path": tiny_model_dir,
            "dataset": "pairs",
            "eval_dataset": "pairs",
            "dataset_dir": tmp_path,
            "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache",
            "per_device_train_batch_size": 4,
            "max_steps": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            **changes,
        }
        return run_lifecycle(*make_plan(None, [f"{key}={value}" for key, value in keys.items()]), print)

    return go


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("tuning", ["lora", "full", "freeze"])
def test_it_learns_and_leaves_a_reward_model(execute, tmp_path, tuning):
    rate = 1e-2 if tuning == "lora" else 1e-3
    run = execute(finetuning_type=tuning, learning_rate=rate, do_train=True, do_predict=True)
    out = tmp_path / "out"
    train = [row for row in rows_of(out) if row["event"] == "train"]
    assert 0.2 < train[0]["loss"] < 1.2
    assert train[-1]["loss"] < 0.4 * train[0]["loss"]
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"} <= train[0].keys()
    assert run.metrics["eval_rewards/accuracies"] == 1.0
    assert run.metrics["predict_rewards/accuracies"] == 1.0
    head = load_file(out / "value_head.safetensors")
    assert {name: tuple(values.shape) for name, values in head.items()} == {
        "v_head.summary.weight": (1, 64),
        "v_head.summary.bias": (1,),
    }
    predicted = [json.loads(line) for line in (out / "generated_predictions.jsonl").read_text().splitlines()]
    assert len(predicted) == len(PAIRS)
    assert all(row["chosen"] > row["rejected"] for row in predicted)
    weights = next(path for path in out.glob("*model*.safetensors") if "value" not in path.name)
    assert not [name for name in load_file(weights) if "v_head" in name]
    if tuning != "lora":
        _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not report["unexpected_keys"]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_reward_model_goes_on(execute, tmp_path, tuning):
    first = execute(finetuning_type=tuning, learning_rate=1e-3)
    assert any("value head is new" in line for line in first.decisions)
    before = first.metrics["eval_loss"]
    start = {"adapter_name_or_path": tmp_path / "out"} if tuning == "lora" else {"model_name_or_path": tmp_path / "out"}
    again = execute(**start, finetuning_type=tuning, output_dir=tmp_path / "again", do_train=False, do_predict=True)
    assert any(f"value head is that of {tmp_path / 'out'}" in line for line in again.decisions)
    assert again.metrics["predict_loss"] == pytest.approx(before, rel=1e-6)


def test_the_best_model_is_loaded_with_its_head(execute, tmp_path):
    """Best is called what training drives away from, so that it is not the last."""
    run = execute(
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=4,
        metric_for_best_model="rewards/margins",
        greater_is_better=False,
    )
    best = run.trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-1")
    for name in ("value_head.safetensors", "adapter_model.safetensors"):
        saved, kept = load_file(tmp_path / "out" / name), load_file(f"{best}/{name}")
        assert all(torch.equal(saved[key], kept[key]) for key in kept)
    margins = {row["step"]: row["eval_rewards/margins"] for row in rows_of(tmp_path / "out") if row["event"] == "eval"}
    assert run.metrics["eval_rewards/margins"] == pytest.approx(margins[1], rel=1e-5)


def test_predictions_stand_in_the_order_of_the_data(execute, tmp_path):
    for name, keys in {"plain": {}, "grouped": {"train_sampling_strategy": "group_by_length"}}.items():
        evaluated = {"do_train": True, "do_predict": True, "per_device_eval_batch_size": 3}
        execute(output_dir=tmp_path / name, max_steps=2, **evaluated, **keys)
    predicted = json.loads((tmp_path / "plain" / "generated_predictions.jsonl").read_text().splitlines()[5])
    one = execute(adapter_name_or_path=tmp_path / "plain", output_dir=tmp_path / "one", do_train=False, do_predict=True)
    assert one.metrics["predict_loss"] > 0
    again = json.loads((tmp_path / "one" / "generated_predictions.jsonl").read_text().splitlines()[5])
    assert again == pytest.approx(predicted, rel=1e-4)


def test_an_overwritten_run_leaves_no_old_head_or_predictions(execute, tmp_path):
    execute(max_steps=1, do_train=True, do_predict=True)
    info = {"chats": {"file_name": "pairs.json", "columns": {"response": "chosen"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    execute(stage="sft", dataset="chats", eval_dataset="", max_steps=1, overwrite_output_dir=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "adapter_model.safetensors" in names
    assert not names & {"value_head.safetensors", "generated_predictions.jsonl"}


def test_bad_input(execute, tmp_path):
    with pytest.raises(Problems, match="no pairs to predict"):
        execute(eval_dataset="", do_train=True, do_predict=True)
    (tmp_path / "pairs.json").write_text(json.dumps([{"instruction": "a?", "output": "b"}]))
    with pytest.raises(DataError):
        execute()
    (tmp_path / "pairs.json").write_text(json.dumps([{**PAIRS[0], "rejected": PAIRS[0]["chosen"]}]))
    with pytest.raises(DataError, match="no training samples are left") as caught:
        execute()
    assert "equal" in caught.value.why


def test_a_value_head_of_another_size_is_refused(execute, tmp_path):
    from safetensors.torch import save_file

    execute(max_steps=1)
    wrong = {"v_head.summary.weight": torch.zeros(1, 8), "v_head.summary.bias": torch.zeros(1)}
    save_file(wrong, tmp_path / "out" / "value_head.safetensors")
    with pytest.raises(DataError, match="value head cannot be loaded"):
        execute(adapter_name_or_path=tmp_path / "out", output_dir=tmp_path / "again")
