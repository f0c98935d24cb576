"""Supervised fine-tuning: packed rows, dynamic fine-tuning, noise, accuracy and predictions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.errors import Problems
from ft.lifecycle import run as run_lifecycle
from ft.planning import make_plan
from ft.testing import Runs, tiny_model
from ft.training import PackedTrainer, pack, pad
from ft.training.neftune import noisy_embeddings
from ft_hookspecs import Run
from ft_plugins.stages._packing import PackedRows, best_fit, unpacked
from ft_plugins.stages._rollouts import answer_settings
from ft_plugins.stages._trainers.sft import SftTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Words = Callable[..., list[str]]

NAMES = "abcdefghijklmnop"
ROWS = [
    {"instruction": f"What is the colour of stone {name}?" + " Think." * (place % 5), "output": f"Stone {name} is red."}
    for place, name in enumerate(NAMES)
]


@pytest.fixture
def words(tiny_model_dir: Path, tmp_path: Path) -> Words:
    path = tmp_path / "stones.json"
    path.write_text(json.dumps(ROWS))

    def build(**changes: Any) -> list[str]:
        values = {
            "model_name_or_path": tiny_model_dir, "dataset": path, "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache", "finetuning_type": "full", "cutoff_len": 128, "learning_rate": 1e-3,
            "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "use_cpu": "true", **changes,
        }  # fmt: skip
        return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]

    return build


def execute(given: list[str]) -> Run:
    return run_lifecycle(*make_plan(None, given), print)


def problems(given: list[str]) -> str:
    with pytest.raises(Problems) as caught:
        make_plan(None, given)
    return str(caught.value)


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.trainer.state.log_history if "loss" in row]


# ---- what is learned


def test_which_turns_are_learned_and_how_much_each_weighs(words: Words, tmp_path: Path) -> None:
    def supervised(*weights: float | None, **keys: Any) -> tuple[int, float]:
        said = [("user", "Who?"), ("assistant", "A stone."), ("user", "Where?"), ("assistant", "Here, below.")]
        turns = [{"role": role, "content": text} for role, text in said]
        for turn, weight in zip(turns[1::2], weights, strict=False):
            turn["weight"] = weight
        data = tmp_path / "talk.jsonl"
        data.write_text(json.dumps({"messages": turns}) + "\n")
        run = execute(words(dataset=data, max_steps=1, overwrite_output_dir=True, **keys))
        return run.counts["train"].supervised, losses(run)[0]

    (every, mean), (last, alone) = supervised(), supervised(mask_history=True)
    first, other = supervised(1, 0)
    assert every == first + last
    assert mean == pytest.approx((first * other + last * alone) / every, rel=1e-5)
    whole, _ = supervised(train_on_prompt=True)
    assert whole > every
    tokens, weighted = supervised(0.5, None)
    assert tokens == every
    assert weighted == pytest.approx((0.5 * first * other + last * alone) / every, rel=1e-5)


# ---- packing


def test_best_fit_fills_rows_and_loses_nothing() -> None:
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert best_fit([], 10) == []
    assert best_fit([3, 12, 3], 10) == [[0, 2], [1]]  # the capacity is that of the longest
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 200, (3000,), generator=draw).tolist()
    rows = best_fit(lengths, 256)
    assert sorted(sample for row in rows for sample in row) == list(range(3000))
    filled = [sum(lengths[sample] for sample in row) for row in rows]
    assert max(filled) <= 256
    assert sum(filled) / (256 * len(rows)) > 0.98
    assert rows == best_fit(lengths, 256)


def test_a_packed_row_keeps_its_samples_apart() -> None:
    """The loss of a row is that of its samples one by one, and positions begin again."""
    draw = torch.Generator().manual_seed(0)
    samples = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (20, 9, 11)]
    features = [{"input_ids": ids, "labels": ids, "length": len(ids)} for ids in samples]

    class Columns(list):
        def __getitem__(self, key: Any) -> Any:
            return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    rows = PackedRows(Columns(features), 40)
    assert len(rows) == 1
    batch = pack(unpacked([rows[0]]))
    assert batch["position_ids"][0].tolist() == [*range(20), *range(9), *range(11)]
    model = tiny_model().eval()
    alone = [model(torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1) for ids in samples]
    engine = PackedTrainer(model, _arguments()).engine
    assert engine.cross_entropy(batch, 1.0).item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-5)


def _arguments(**changes: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(output_dir="unused", report_to=[], use_cpu=True, disable_tqdm=True, **changes)


def test_packing_counts_rows_and_says_so(words: Words) -> None:
    run = execute(words(packing=True, per_device_train_batch_size=1, num_train_epochs=1))
    (told,) = [line for line in run.decisions if line.startswith("packing")]
    assert "16 samples" in told
    assert "per_device_train_batch_size counts rows" in told
    rows = len(run.train_dataset)
    assert len(losses(run)) == rows < 16
    assert run.trainer.state.num_input_tokens_seen == run.counts["train"].tokens


def test_one_packed_row_is_the_step_of_its_samples(words: Words, tmp_path: Path) -> None:
    one = execute(words(packing=True, cutoff_len=1024, per_device_train_batch_size=1, max_steps=3))
    whole = execute(words(per_device_train_batch_size=16, max_steps=3, output_dir=tmp_path / "whole"))
    assert losses(one) == pytest.approx(losses(whole), rel=1e-5)
    neat = execute(
        words(neat_packing=True, cutoff_len=1024, per_device_train_batch_size=1, max_steps=3, output_dir=tmp_path / "n")
    )
    assert losses(neat) == losses(one)


def test_a_stream_is_packed_a_block_at_a_time(words: Words, tmp_path: Path) -> None:
    keys = {"packing": True, "cutoff_len": 256, "per_device_train_batch_size": 1, "max_steps": 4}
    stream = {**keys, "streaming": True, "disable_shuffling": True}
    run = execute(words(**stream, buffer_size=16))
    whole = execute(words(**keys, disable_shuffling=True, output_dir=tmp_path / "whole"))
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)  # one block holds all samples
    blocks = execute(words(**stream, buffer_size=4, output_dir=tmp_path / "blocks"))
    assert losses(blocks) != losses(run)
    saved = {"save_strategy": "steps", "save_steps": 2, "output_dir": tmp_path / "saved", **stream, "buffer_size": 4}
    execute(words(**saved))
    resumed = execute(words(**saved, resume_from_checkpoint=tmp_path / "saved" / "checkpoint-2"))
    assert losses(resumed) == losses(blocks)


def test_what_packing_excludes(words: Words) -> None:
    assert "exclude each other" in problems(words(packing=True, group_by_length=True))
    assert "needs max_steps" in problems(words(packing=True, streaming=True, num_train_epochs=2))
    assert "contradict" in problems(words(packing=False, neat_packing=True))


# ---- dynamic fine-tuning


def test_dft_is_the_papers_formula() -> None:
    """-sg(p) · log p over the labels, in float64, with its gradient; and per-message weights multiply it."""
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (12, 7)]
    features = [{"input_ids": row, "labels": [-100] * 3 + row[3:], "loss_weights": [1.5] * len(row)} for row in ids]
    batch = pack(features)
    labels = len(batch["targets"])
    exact = tiny_model().double()
    padded = pad(batch)
    logits = exact(padded["input_ids"], attention_mask=padded["attention_mask"]).logits[:, :-1]
    wanted = padded["labels"][:, 1:]
    log_p = logits.log_softmax(-1).gather(2, wanted.clamp(min=0)[..., None])[..., 0][wanted != -100]
    expected = 1.5 * (-log_p * log_p.detach().exp()).sum() / labels
    expected.backward()
    for attention in ("packed", "padded"):
        trainer = SftTrainer(tiny_model().train(), _arguments(), attention=attention, dft=True)
        loss = trainer.loss(trainer.model, batch, labels)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for (name, own), reference in zip(trainer.model.named_parameters(), exact.parameters(), strict=True):
            difference = (own.grad.double() - reference.grad).norm() / reference.grad.norm()
            assert difference < 1e-5, name


def test_dft_learns_and_evaluates_by_cross_entropy(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    plain = execute(words(eval_dataset=data, eval_on_start=True, max_steps=2))
    dft = execute(
        words(eval_dataset=data, eval_on_start=True, max_steps=2, use_dft_loss=True, output_dir=tmp_path / "d")
    )
    assert dft.metrics["eval_loss_before"] == plain.metrics["eval_loss_before"]
    assert losses(dft)[0] < losses(plain)[0] / 2  # most tokens are unlikely at first
    assert dft.metrics["eval_loss"] < dft.metrics["eval_loss_before"]


# ---- noise


@pytest.mark.parametrize("packed", [True, False])
def test_noise_is_scaled_by_each_samples_own_length(packed: bool) -> None:
    model = tiny_model().train()
    draw = torch.Generator().manual_seed(0)
    features = [{"input_ids": (ids := torch.randint(4, 384, (length,), generator=draw).tolist()), "labels": ids}
                for length in (400, 16, 4)]  # fmt: skip
    batch = pack(features)
    seen: list[torch.Tensor] = []
    tokens = batch["input_ids"] if packed else pad(batch)["input_ids"]
    with noisy_embeddings(model, batch, 5.0):
        model.model.embed_tokens.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
        model.model.embed_tokens(tokens)
        model.eval()
        model.model.embed_tokens(tokens)
    plain = model.model.embed_tokens(tokens).detach()
    noise = (seen[0] - plain).abs()
    spans = [noise[0, 0:400], noise[0, 400:416], noise[0, 416:420]]
    if not packed:
        spans = [noise[row, :length] for row, length in enumerate((400, 16, 4))]
    for span, length in zip(spans, (400, 16, 4), strict=True):
        bound = 5.0 / (length * 64) ** 0.5
        assert 0.9 * bound < float(span.max()) <= bound * (1 + 1e-4)
        assert float(span.mean()) == pytest.approx(bound / 2, rel=0.1)
    assert torch.equal(seen[1], plain)  # evaluation adds none


def test_noise_in_float16_reaches_samples_whose_numbers_it_cannot_count() -> None:
    model = tiny_model().half().train()
    ids = [5] * 1100  # times 64 is beyond 65504
    batch = pack([{"input_ids": ids, "labels": ids}])
    plain = model.model.embed_tokens(batch["input_ids"])
    with noisy_embeddings(model, batch, 5.0):
        assert not torch.equal(model.model.embed_tokens(batch["input_ids"]), plain)


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_noise_acts_in_training_alone(words: Words, tmp_path: Path, attention: str) -> None:
    keys = {"eval_dataset": tmp_path / "stones.json", "eval_on_start": True, "max_steps": 2, "attention": attention}
    plain = execute(words(**keys))
    noisy = execute(words(**keys, neftune_noise_alpha=15, output_dir=tmp_path / "noisy"))
    again = execute(words(**keys, neftune_noise_alpha=15, output_dir=tmp_path / "again"))
    assert noisy.metrics["eval_loss_before"] == plain.metrics["eval_loss_before"]
    assert abs(losses(noisy)[0] - losses(plain)[0]) > 1e-3
    assert losses(noisy) == losses(again)


# ---- accuracy


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_accuracy_is_the_share_of_labels_that_are_likeliest(attention: str) -> None:
    model = tiny_model().eval()
    draw = torch.Generator().manual_seed(2)
    right = total = 0
    features = []
    for length in (30, 12, 21):
        ids = torch.randint(4, 384, (length,), generator=draw)
        for place in range(1, length, 2):  # every other token is the model's own choice
            ids[place] = model(ids[None, :place]).logits[0, -1].argmax()
        labels = ids.tolist()
        labels[: length // 3] = [-100] * (length // 3)
        likeliest = model(ids[None]).logits[0, :-1].argmax(-1)
        learned = torch.tensor(labels[1:]) != -100
        right += int((likeliest == ids[1:])[learned].sum())
        total += int(learned.sum())
        features.append({"input_ids": ids.tolist(), "labels": labels})
    trainer = SftTrainer(
        tiny_model(), _arguments(per_device_eval_batch_size=2, remove_unused_columns=False), attention=attention,
        accuracy=True, eval_dataset=features,
    )  # fmt: skip
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(right / total)
    assert 0.4 < right / total < 0.6


def test_accuracy_is_measured_and_may_choose_the_best(words: Words, tmp_path: Path) -> None:
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = execute(
        words(eval_dataset=tmp_path / "stones.json", compute_accuracy=True, max_steps=3, load_best_model_at_end=True,
              metric_for_best_model="accuracy", **every)
    )  # fmt: skip
    measured = [row["eval_accuracy"] for row in run.trainer.state.log_history if "eval_accuracy" in row]
    assert run.metrics["eval_accuracy"] == pytest.approx(max(measured))
    assert run.trainer.state.best_metric == max(measured)


# ---- predictions


def predictions(folder: Path) -> list[Mapping[str, str]]:
    text = (folder / "generated_predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ASK = {"do_predict": True, "predict_with_generate": True, "max_new_tokens": 8, "do_sample": False}


def test_predictions_stand_in_order_beside_their_labels(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    run = execute(words(eval_dataset=data, do_train=False, per_device_eval_batch_size=3, **ASK))
    rows = predictions(tmp_path / "out")
    assert [row["label"] for row in rows] == [row["output"] for row in ROWS]
    for row, source in zip(rows, ROWS, strict=True):
        assert source["instruction"] in row["prompt"]
        assert row["prompt"].endswith("assistant\n")
    names = {"bleu-4", "rouge-1", "rouge-2", "rouge-l", "runtime", "samples_per_second"}
    assert {f"predict_{name}" for name in names} <= run.metrics.keys()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert run.counts["eval prompts"].examples == len(ROWS)


def test_a_model_that_learned_predicts_better(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    fresh = execute(words(eval_dataset=data, do_train=False, **ASK, output_dir=tmp_path / "fresh"))
    keys = {**ASK, "do_train": True, "max_new_tokens": 24, "max_steps": 40, "learning_rate": 1e-2}
    learned = execute(words(eval_dataset=data, **keys))
    assert learned.metrics["predict_rouge-l"] > fresh.metrics["predict_rouge-l"] + 30
    assert any("red" in row["predict"] for row in predictions(tmp_path / "out"))


def test_generation_keys_reach_predictions(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    keys = {**ASK, "eval_dataset": data, "do_train": False}
    execute(words(**{**keys, "max_new_tokens": 2}))
    short = [row["predict"] for row in predictions(tmp_path / "out")]
    drawn = []
    for folder in ("one", "two"):
        execute(words(**{**keys, "do_sample": True, "temperature": 2.0, "output_dir": tmp_path / folder}))
        drawn.append([row["predict"] for row in predictions(tmp_path / folder)])
    assert drawn[0] == drawn[1]  # drawn from the seed
    assert all(map(len, short))
    told = execute(words(**keys, temperature=0.5, output_dir=tmp_path / "told")).plan.notes
    assert "command line: temperature: temperature has no effect: do_sample is false" in told


def test_what_predicting_needs(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    assert "need each other" in problems(words(eval_dataset=data, do_predict=True))
    assert "need each other" in problems(words(eval_dataset=data, predict_with_generate=True))
    assert "no data to evaluate on" in problems(words(**ASK))
    assert "exclude each other" in problems(words(eval_dataset=data, compute_accuracy=True, **ASK))
    assert "leaves no room" in problems(words(eval_dataset=data, **{**ASK, "max_new_tokens": 128}))
    told = execute(words(max_steps=1, temperature=0.5)).plan.notes
    assert "command line: temperature: temperature has no effect: nothing is generated" in told


def test_each_evaluation_set_has_its_own_file(words: Words, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(ROWS[:3]))
    both = f"{tmp_path / 'stones.json'},{other}"
    kept = {"tokenized_path": tmp_path / "tokens", "eval_on_each_dataset": True}
    run = execute(words(eval_dataset=both, do_train=False, **ASK, **kept))
    files = sorted((tmp_path / "out").glob("*generated_predictions.jsonl"))
    assert sorted(len(path.read_text().splitlines()) for path in files) == [3, 16]
    measured = [name for name in run.metrics if name.startswith("predict_") and name.endswith("rouge-l")]
    assert len(measured) == 2
    assert len(list((tmp_path / "tokens").iterdir())) == 3  # train and both sets; prompts are no split


def test_predictions_need_the_conversations_themselves(words: Words, tmp_path: Path) -> None:
    tokens_alone = words(dataset="null", tokenized_path=tmp_path / "tokens", **ASK)
    assert "needs the data itself" in problems(tokens_alone)


def test_answers_are_as_long_as_the_prompts_left_room(words: Words, tmp_path: Path) -> None:
    keys = {**ASK, "max_new_tokens": "null", "eval_dataset": tmp_path / "stones.json"}
    plan, _ = make_plan(None, words(**keys))
    assert answer_settings(Run(plan))["max_new_tokens"] == 64  # half of cutoff_len: generation alone would say 1024


def test_two_processes_write_one_file_in_order(words: Words, tmp_path: Path) -> None:
    data = tmp_path / "stones.json"
    keys = dict(word.split("=", 1) for word in words(eval_dataset=data, do_train=False, **ASK))
    runs = Runs()
    for processes in (1, 2):
        done = runs({**keys, "output_dir": tmp_path / str(processes)}, processes=processes)
        assert done.exits == (0,) * processes, done.output
    assert predictions(tmp_path / "2") == predictions(tmp_path / "1")
    assert len(predictions(tmp_path / "2")) == len(ROWS)
