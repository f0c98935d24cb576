"""One training step in five ways; every one trains the same model on the same sequences with the same optimizer."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from harness import Clock, Outcome
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM, TrainerCallback
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workload import Workload

IGNORED = -100
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What all variants share: the model's folder, ``lora`` or ``full``, the dtypes and the sequences."""

    folder: str
    method: str
    dtype: torch.dtype
    workload: Workload
    adapters: torch.dtype | None = None
    """What the adapters train in; ``None``: in ``dtype`` too."""

    def model(self, attention: str = "sdpa") -> nn.Module:
        """The model, or the model with rank-8 adapters on every linear layer; with B = 0, A has no gradient."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype, attn_implementation=attention)
        model.config.use_cache = False
        if self.method == "full":
            return model
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
                parameter.data = parameter.data.to(self.adapters or self.dtype)
        return adapted


# ---- loops written by hand ----------------------------------------------------------------------------------------


def loop(setting: Setting, attention: str, loss_of: Callable[[nn.Module, Any], Tensor], batches: list[Any]) -> Outcome:
    """The least that trains: forward, backward, clip, step."""
    model = setting.model(attention).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    losses, norms = [], []
    clock = Clock()
    for batch in batches:
        clock.begin_step()
        loss = loss_of(model, batch)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(trained, 1.0).item())
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        clock.end_step()
    return Outcome(clock.cpu, clock.wall, losses, norms)


def bare(setting: Setting) -> Outcome:
    """Padded batches through ``model(...).loss``."""
    return loop(setting, "sdpa", lambda model, batch: model(**batch).loss, [pad(b) for b in setting.workload.batches])


def pad(batch: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    longest = max(len(sequence["input_ids"]) for sequence in batch)

    def rows(name: str, fill: int) -> Tensor:
        return torch.tensor([s[name] + [fill] * (longest - len(s[name])) for s in batch])

    masks = [[1] * len(s["input_ids"]) + [0] * (longest - len(s["input_ids"])) for s in batch]
    return {"input_ids": rows("input_ids", 0), "labels": rows("labels", IGNORED), "attention_mask": torch.tensor(masks)}


def same(setting: Setting) -> Outcome:
    """The mathematics of ft's step, written by hand without ft: what is left between the two is the framework."""
    AttentionInterface.register("by_hand", _attention_by_hand)
    AttentionMaskInterface.register("by_hand", lambda *_, **__: None)
    return loop(setting, "by_hand", _loss_by_hand, setting.workload.batches)


def _attention_by_hand(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: Any = None, **kwargs: Any
) -> Any:
    parts = zip(*(states.split(kwargs["lengths"], 2) for states in (q, k, v)), strict=True)
    attend = functional.scaled_dot_product_attention
    outputs = [attend(a, b, c, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2) for a, b, c in parts]
    return torch.cat(outputs, 1), None


def _loss_by_hand(model: nn.Module, batch: list[dict[str, list[int]]]) -> Tensor:
    lengths = [len(sequence["input_ids"]) for sequence in batch]
    ids = torch.tensor([token for sequence in batch for token in sequence["input_ids"]])
    labels = torch.tensor([label for s in batch for label in [IGNORED, *s["labels"][1:]]])
    positions = torch.cat([torch.arange(length) for length in lengths])
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.model(input_ids=ids[None], position_ids=positions[None], lengths=lengths).last_hidden_state[0]
    places = (labels != IGNORED).nonzero()[:, 0]
    return _HeadByHand.apply(hidden[places - 1], base.lm_head.weight, labels[places])


class _HeadByHand(torch.autograd.Function):
    """Cross-entropy whose gradients are made in the forward pass, in chunks of rows."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int = 1024) -> Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if weight.requires_grad else None
        for part in (slice(start, start + rows) for start in range(0, len(hidden), rows)):
            x, y = hidden[part], targets[part]
            scores = functional.log_softmax((x @ weight.t()).float(), -1)
            loss -= scores.gather(1, y[:, None]).sum() / len(targets)
            scores.exp_()[torch.arange(len(y)), y] -= 1
            slope = (scores / len(targets)).to(x.dtype)
            torch.mm(slope, weight, out=d_hidden[part])
            if d_weight is not None:
                d_weight.addmm_(slope.t(), x)
        ctx.gradients = d_hidden, d_weight
        return loss

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return *ctx.gradients, None


# ---- trainers -----------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    """The clock and the logged figures of any ``transformers.Trainer``."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.end_step()

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs["grad_norm"]))

    def outcome(self) -> Outcome:
        return Outcome(self.clock.cpu, self.clock.wall, self.losses, self.norms)


def common(setting: Setting, folder: str) -> dict[str, Any]:
    """Arguments that both trainers get."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": len(setting.workload.batches[0]),
        "max_steps": len(setting.workload.batches),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }


@contextlib.contextmanager
def quiet_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        yield folder


def ft(setting: Setting, accelerate: Callable[[nn.Module], None] = lambda _: None) -> Outcome:
    """``ft.training.PackedTrainer``, the trainer of ``stage: sft``, on a model that an accelerator has changed."""
    from datasets import Dataset
    from transformers import TrainingArguments

    from ft.training import PackedTrainer

    recorder = Recorder()
    with quiet_folder() as folder:
        arguments = TrainingArguments(**common(setting, folder), remove_unused_columns=False)
        data = Dataset.from_list(setting.workload.sequences)
        model = setting.model()
        accelerate(model)
        PackedTrainer(model, arguments, train_dataset=data, callbacks=[recorder]).train()
    return recorder.outcome()


def fused(setting: Setting) -> Outcome:
    """``ft`` with the layers of ``--plugin fused_lora``."""
    from ft_plugins.accelerators.fused_lora import ft_accelerate_model

    return ft(setting, lambda model: ft_accelerate_model(model))


def compiled(setting: Setting) -> Outcome:
    """``ft`` with the layers of ``torch_compile: true``; the first step, which is not timed, compiles."""
    from ft_plugins.accelerators.compile import compile_layers

    return ft(setting, lambda model: compile_layers(model, "inductor", None))


def trl(setting: Setting) -> Outcome:
    """``trl.SFTTrainer`` on the same tokens, in fp32 or with bf16 weights, without gradient checkpointing."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    recorder = Recorder()
    with quiet_folder() as folder:
        arguments = SFTConfig(
            **common(setting, folder),
            bf16=setting.dtype is torch.bfloat16,
            gradient_checkpointing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        SFTTrainer(
            setting.model(),
            arguments,
            train_dataset=Dataset.from_list(setting.workload.sequences),
            processing_class=AutoTokenizer.from_pretrained(setting.folder),
            callbacks=[recorder],
        ).train()
    return recorder.outcome()


VARIANTS: dict[str, Callable[[Setting], Outcome]] = {"bare": bare, "same": same, "trl": trl, "ft": ft}
ACCELERATED: dict[str, Callable[[Setting], Outcome]] = {"fused": fused, "compiled": compiled}
