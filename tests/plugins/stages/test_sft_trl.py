"""The loss of dynamic fine-tuning is TRL's, on the same batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ft.testing import tiny_model, tiny_tokenizer
from ft.training import pack
from ft_plugins.stages._trainers.sft import SftTrainer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer over samples that are tokens already."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    draw = torch.Generator().manual_seed(3)
    ids = [torch.randint(4, 384, (length,), generator=draw).tolist() for length in (14, 9, 21)]
    rows = [{"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in ids]
    args = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), loss_type="dft", use_cpu=True, report_to=[], bf16=False,
        gradient_checkpointing=False, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    return SFTTrainer(tiny_model(), args, train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer())


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_the_loss_is_that_of_trl(theirs: Any, tmp_path: Path, attention: str) -> None:
    from transformers import TrainingArguments

    rows = [theirs.train_dataset[index] for index in range(3)]
    model = theirs.model.train()
    model.zero_grad()
    expected = theirs.compute_loss(model, theirs.data_collator(rows))
    expected.backward()
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    ours = SftTrainer(tiny_model().train(), args, attention=attention, dft=True)
    batch = pack(rows)
    loss = ours.loss(ours.model, batch, len(batch["targets"]))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
