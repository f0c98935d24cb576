"""Loss and gradient of judged answers, against float64 written from the paper, and against TRL."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.functional import log_softmax
from transformers import TrainingArguments

from ft.testing import tiny_model, tiny_tokenizer
from ft_plugins.stages._trainers.kto import KtoTrainer, Mismatched, partners
from ft_plugins.stages.kto import KtoOptions

BETA, GOOD, BAD, FTX = 0.3, 1.3, 0.7, 0.2


class Fixed:
    """A reference that is another model, always."""

    def __init__(self, model):
        self.model = model

    @contextmanager
    def applied(self):
        with torch.no_grad():
            yield self.model


@pytest.fixture(scope="module")
def samples():
    draw = torch.Generator().manual_seed(3)

    def ids(length):
        return torch.randint(4, 384, (length,), generator=draw).tolist()

    rows = []
    for prompt, answer, desirable in ((9, 5, True), (17, 8, False), (4, 11, False), (13, 1, True), (6, 6, False)):
        tokens = ids(answer)
        rows.append({"prompt_ids": ids(prompt), "answer_ids": tokens, "answer_labels": tokens, "desirable": desirable})
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def policy():
    model = get_peft_model(tiny_model(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    draw = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05, generator=draw)
    return model


def log_prob(model, prompt, answer):
    """Of an answer, by the plain forward in float64."""
    rows = log_softmax(model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1], -1)
    return rows.gather(1, torch.tensor(answer)[:, None]).sum()


def by_paper(policy, reference, features):
    """Equation 8 of the paper, z₀ being the mean log-ratio of the mismatched answers, at least 0."""

    def ratio(prompt, answer):
        return log_prob(policy, prompt, answer) - log_prob(reference, prompt, answer)

    z0 = torch.stack([ratio(f["prompt_ids"], f["other_ids"]) for f in features]).detach().mean().clamp(min=0)
    total = 0
    for feature in features:
        r = ratio(feature["prompt_ids"], feature["answer_ids"])
        if feature["desirable"]:
            nll = -log_prob(policy, feature["prompt_ids"], feature["answer_ids"]) / len(feature["answer_ids"])
            total = total + GOOD - GOOD * torch.sigmoid(BETA * (r - z0)) + FTX * nll
        else:
            total = total + BAD - BAD * torch.sigmoid(BETA * (z0 - r))
    return total / len(features), z0


def gradients(model):
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def trainer_for(model, folder, attention="auto", **more):
    keys = {"pref_beta": BETA, "kto_chosen_weight": GOOD, "kto_rejected_weight": BAD, "pref_ftx": FTX, **more}
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], remove_unused_columns=False)
    trainer = KtoTrainer(model, arguments, options=KtoOptions(**keys), attention=attention)
    trainer.state.max_steps = 1
    return trainer


@pytest.mark.parametrize("sign", [1, -1], ids=["positive KL", "clamped KL"])
@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_loss_and_gradient_are_the_papers(attention, sign, policy, samples, tmp_path):
    data = Mismatched(samples, seed=42, cutoff_len=64)
    features = [data[index] for index in range(len(data))]
    base = tiny_model()
    policies = (policy, base) if sign > 0 else (base, policy)
    ours, other = (copy.deepcopy(model).requires_grad_() for model in policies)
    exact, reference = copy.deepcopy(ours).double(), copy.deepcopy(other).double()
    expected, z0 = by_paper(exact, reference, features)
    expected.backward()
    true = gradients(exact)
    for cut in ([features], [features[:1], features[1:3], features[3:]]):
        trainer = trainer_for(copy.deepcopy(ours), tmp_path, attention)
        trainer.reference = Fixed(other)
        batches, items = trainer.get_batch_samples(iter(map(trainer.collate, cut)), len(cut), "cpu")
        assert trainer.divergence.item() == pytest.approx(z0.item(), abs=1e-5)
        losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=items) for batch in batches]
        sum(losses).backward()
        assert sum(losses).item() == pytest.approx(expected.item(), rel=1e-5)
        own = gradients(trainer.model)
        assert all((own[name] - gradient).norm() <= 1e-5 * gradient.norm() for name, gradient in true.items())


def test_everyone_has_a_partner_and_is_one():
    drawn = partners(50, seed=1, epoch=0)
    assert sorted(drawn) == list(range(50))
    assert all(own != other for own, other in enumerate(drawn))


def test_partners_are_drawn_anew_each_epoch_and_are_the_same_for_the_same_one(samples):
    data = Mismatched(samples, seed=7, cutoff_len=64)
    first = [data[i]["other_ids"] for i in range(len(data))]
    data.draw(1)
    second = [data[i]["other_ids"] for i in range(len(data))]
    data.draw(0)
    assert first == [data[i]["other_ids"] for i in range(len(data))]
    assert first != second
    assert partners(50, seed=7, epoch=3) != partners(50, seed=8, epoch=3)


def test_a_mismatched_answer_is_cut_where_the_sample_would_be_too_long(samples):
    data = Mismatched(samples, seed=7, cutoff_len=18)
    for feature in map(data.__getitem__, range(len(data))):
        room = 18 - len(feature["prompt_ids"])
        assert 1 <= len(feature["other_ids"]) == len(feature["other_labels"]) <= room
    assert len(data[1]["other_ids"]) == 1


class Watching(KtoTrainer):
    """Three epochs of five samples; keeps the mismatched answers of each batch."""

    def __init__(self, policy, samples, folder, **changes):
        settings = {"use_cpu": True, "report_to": [], "save_strategy": "no", "remove_unused_columns": False, **changes}
        super().__init__(
            copy.deepcopy(policy),
            TrainingArguments(str(folder), num_train_epochs=3, **settings),
            options=KtoOptions(),
            train_dataset=Mismatched(samples, seed=7, cutoff_len=64),
        )
        self.reference, self.seen = Fixed(tiny_model()), []

    def log_ratios(self, model, batch):
        self.seen.append(batch["other"]["input_ids"].tolist())
        return super().log_ratios(model, batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_other_partners(samples, policy, tmp_path, workers):
    """Also where workers live through all epochs."""
    loading = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    order = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 5}
    trainer = Watching(policy, samples, tmp_path, **loading, **order)
    trainer.train()
    expected, data = [], Mismatched(samples, seed=7, cutoff_len=64)
    for epoch in range(3):
        data.draw(epoch)
        expected.append(trainer.collate([data[i] for i in range(5)])["other"]["input_ids"].tolist())
    assert trainer.seen == expected
    assert len({str(batch) for batch in trainer.seen}) == 3


def test_resumed_within_an_epoch_the_partners_are_those_of_that_epoch(samples, policy, tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 2}
    whole, rest = (Watching(policy, samples, tmp_path, **saves) for _ in range(2))
    whole.train()
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert len(whole.seen) == 9
    assert rest.seen == whole.seen[4:]


ROWS = [
    {"prompt": "Who are you?", "completion": " I am a small model.", "label": True},
    {"prompt": "What is the capital of France?", "completion": " Rome.", "label": False},
    {"prompt": "One two three", "completion": " four five six", "label": True},
    {"prompt": "Hello", "completion": " The quick brown fox", "label": False},
]


def test_with_the_same_mismatched_pairs_it_is_trls(tmp_path):
    from trl import KTOConfig, KTOTrainer

    policy, draw = tiny_model(), torch.Generator().manual_seed(4)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
    settings = KTOConfig(
        str(tmp_path / "trl"),
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        beta=BETA,
        desirable_weight=GOOD,
        undesirable_weight=BAD,
    )
    ours = copy.deepcopy(policy)
    data = Dataset.from_list(ROWS)
    theirs = KTOTrainer(policy, tiny_model(), settings, train_dataset=data, processing_class=tiny_tokenizer())
    rows = [theirs.train_dataset[i] for i in range(4)]
    expected = theirs._compute_loss(theirs.model, theirs.data_collator(rows), return_outputs=False)
    expected.backward()
    true = gradients(theirs.model)

    trainer = trainer_for(ours, tmp_path, pref_ftx=0.0)
    trainer.reference = Fixed(tiny_model())
    features = [
        {
            "prompt_ids": row["prompt_ids"],
            "answer_ids": row["completion_ids"],
            "answer_labels": row["completion_ids"],
            "desirable": row["label"],
            "other_ids": row["KL_completion_ids"],
            "other_labels": row["KL_completion_ids"],
        }
        for row in rows
    ]
    [batch], items = trainer.get_batch_samples(iter([trainer.collate(features)]), 1, "cpu")
    loss = trainer.compute_loss(ours, batch, num_items_in_batch=items)
    loss.backward()
    assert trainer.divergence > 0
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    own = gradients(ours)
    assert all((own[name] - gradient).norm() <= 1e-5 * gradient.norm() for name, gradient in true.items())
