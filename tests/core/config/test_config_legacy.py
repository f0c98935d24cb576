"""Old names, settled questions and keys of other programs: translated or left out with a note, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ft.config import Resolved, gather, resolve, trainer_options
from ft.config.legacy import answered_keys, answers, table
from ft.errors import Problems
from ft.planning import CORE
from ft_hookspecs import PluginOptions
from ft_plugins.selectors import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

ALWAYS = (*CORE, (OPTIONS, "ft-framework"))
CLAIMED = frozenset(key for model, _ in ALWAYS for key in model.model_fields) | answered_keys()
MODELS = (*ALWAYS, (trainer_options(CLAIMED), "transformers"))


def run(folder: Path, text: str, *words: str) -> Resolved:
    path = folder / "c.yaml"
    path.write_text("model_name_or_path: m\n" + text)
    return resolve(gather(path, words, {}), MODELS)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("warmup_ratio: 0.1", "warmup_steps", 0.1),
        ("evaluation_strategy: steps", "eval_strategy", "steps"),
        ("group_by_length: true", "train_sampling_strategy", "group_by_length"),
        ("no_cuda: true", "use_cpu", True),
        ("per_gpu_train_batch_size: 4", "per_device_train_batch_size", 4),
        ("adafactor: true", "optim", "adafactor"),
        ("disable_gradient_checkpointing: true", "gradient_checkpointing", False),
        ("gradient_checkpointing: true", "gradient_checkpointing", True),
        ("ddp_timeout: 180000000", "ddp_timeout", 180000000),
        ("torch_dtype: bfloat16", "dtype", "bfloat16"),
        ("system_prompt: 1.10", "default_system", "1.10"),
        ("max_seq_length: 512", "cutoff_len", 512),
        ("dataset_name: a,b", "dataset", ["a", "b"]),
        ("use_peft: true", "finetuning_type", "lora"),
        ("attn_implementation: flash_attention_2", "flash_attn", "fa2"),
        ("truncation_mode: keep_start", "truncation", "right"),
    ],
)
def test_renamed_keys_are_translated_with_a_note(tmp_path: Path, line: str, key: str, value: object) -> None:
    resolved = run(tmp_path, line + "\n")
    assert resolved.values[key] == value
    assert resolved.sources[key].where == f"{tmp_path / 'c.yaml'}:2"
    old = line.partition(":")[0]
    assert [key in note and old in note and "c.yaml:2" in note for note in resolved.notes] == [True] * (old != key)


@pytest.mark.parametrize(
    "line",
    ["group_by_length: false", "warmup_ratio: 0.0", "save_safetensors: true", "logging_dir: logs", "use_mca: false",
     "image_max_pixels: 589824", "badam_verbose: 0", "ref_model: null", "per_gpu_train_batch_size:", "fp8: null",
     "use_fast_tokenizer: true", "low_cpu_mem_usage: false", "print_param_status: true", "padding_free: true",
     "infer_backend: huggingface", "dataset_train_split: train"],
)  # fmt: skip
def test_what_asks_for_nothing_is_accepted_with_a_note(tmp_path: Path, line: str) -> None:
    resolved = run(tmp_path, line + "\n")
    (note,) = resolved.notes
    assert "c.yaml:2" in note
    assert "has no effect" in note
    assert line.partition(":")[0] not in resolved.values


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("use_kt: true", "quantization_bit makes a large model smaller"),
        ("use_mca: 0", "deepspeed or fsdp"),
        ("image_max_pixels: 1000", "only text is trained on"),
        ("export_dir: merged", "merge_and_unload"),
        ("infer_backend: vllm", "serve what was saved"),
        ("use_asft_loss: true", "can be a plugin"),
        ("fp8: true", "bf16: true"),
        ("ray_num_workers: 4", "torchrun"),
        ("max_prompt_length: 512", "write cutoff_len"),
        ("peft_config: {name: lora}", "flat keys"),
        ("truncation_mode: middle", "write truncation instead"),
        ("save_safetensors: false", "always saved as safetensors"),
        ("use_fast_tokenizer: false", "character offsets"),
        ("warmup_ratio: 2", "from 0 to below 1"),
        ("warmup_ratio: -0.5", "from 0 to below 1"),
        ("group_by_length: maybe", "its value is true"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(Problems) as caught:
        run(tmp_path, line + "\n")
    (problem,) = caught.value.problems
    assert why in str(problem)
    assert problem.where == f"{tmp_path / 'c.yaml'}:2"


def test_old_and_new_name_together_are_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="warmup_ratio and warmup_steps are both given") as caught:
        run(tmp_path, "warmup_ratio: 0.1\nwarmup_steps: 20\n")
    assert "c.yaml:3" in caught.value.problems[0].why
    assert run(tmp_path, "warmup_ratio: 0.0\nwarmup_steps: 20\n").values["warmup_steps"] == 20


def test_today_s_name_that_asks_for_nothing_or_the_same_is_no_conflict(tmp_path: Path) -> None:
    resolved = run(tmp_path, "warmup_steps: 0\nwarmup_ratio: 0.1\n")
    assert resolved.values["warmup_steps"] == 0.1
    assert "c.yaml:3" in resolved.notes[0]
    resolved = run(tmp_path, "use_peft: true\nfinetuning_type: lora\n")
    assert resolved.values["finetuning_type"] == "lora"
    with pytest.raises(Problems, match="are both given"):
        run(tmp_path, "use_peft: false\nfinetuning_type: lora\n")


def test_the_stronger_level_wins_under_either_name(tmp_path: Path) -> None:
    assert run(tmp_path, "warmup_ratio: 0.1\n", "warmup_steps=20").values["warmup_steps"] == 20
    assert run(tmp_path, "warmup_steps: 20\n", "warmup_ratio=0.1").values["warmup_steps"] == 0.1


def test_a_renamed_key_is_checked_like_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(Problems) as caught:
        run(tmp_path, "evaluation_strategy: weekly\n")
    said = 'eval_strategy (written evaluation_strategy): expected one of no, steps, epoch; given "weekly"'
    assert said in str(caught.value)


def test_a_secret_stays_out_of_the_note(tmp_path: Path) -> None:
    (note,) = run(tmp_path, "use_auth_token: abcdef\n").notes
    assert "abcdef" not in note
    assert "***" in note


def test_a_declared_key_is_never_an_old_name(tmp_path: Path) -> None:
    class Mine(PluginOptions):
        use_galore: bool = False
        warmup_ratio: float = 0.0

    settings = gather(None, ["use_galore=true", "warmup_ratio=0.5"], {})
    resolved = resolve(settings, [(Mine, "plugin 'mine'")])
    assert resolved.values == {"use_galore": True, "warmup_ratio": 0.5}
    assert not resolved.notes


def test_the_table_holds_only_keys_that_the_core_does_not_declare() -> None:
    declared = {key for model, _ in MODELS for key in model.model_fields}
    assert not {*answers(), *table()["renamed"]} & declared
    groups = [group["keys"] for group in table()["unavailable"]]
    parts = [table()["renamed"], table()["settled"], table()["plugins"], *groups]
    assert sum(map(len, parts)) == len({*answers(), *table()["renamed"]}), "a key stands there twice"


def test_a_misspelt_key_is_never_taken_for_one_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(Problems) as caught:
        run(tmp_path, "lora_rnk: 8\nkt_confg: x\nuse_megatron_brigde: true\n")
    remedies = [problem.remedy for problem in caught.value.problems]
    assert "lora_rank" in remedies[0]
    assert not any("kt_config" in remedy or "megatron" in remedy for remedy in remedies)


def test_new_names_exist_wherever_the_core_owns_them() -> None:
    elsewhere = {"pref_beta", "pref_loss", "pref_ftx", "freeze_trainable_modules", "freeze_trainable_layers"}
    elsewhere |= {"quantization_type", "double_quantization", "lora_rank", "lora_target", "additional_target"}
    elsewhere |= {"train_on_prompt", "packing"}
    elsewhere |= {"kto_chosen_weight", "kto_rejected_weight", "dpo_label_smoothing", "ppo_epochs", "reward_model"}
    declared = {key for model, _ in MODELS for key in model.model_fields}
    new = {rule["key"] for rule in table()["renamed"].values()}
    assert new - declared == elsewhere | {"create_new_adapter"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("label_smoothing_factor: 0.1", "plain cross-entropy"),
        ("push_to_hub: true", "hf upload"),
        ("bf16_full_eval: true", "number formats of training"),
        ("batch_eval_metrics: true", "sum over labels"),
        ("include_inputs_for_metrics: true", "is the loss"),
    ],
)
def test_what_transformers_could_do_and_a_run_does_not_is_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(Problems, match=f"is not available(.|\n)*{why}"):
        run(tmp_path, line + "\n")


@pytest.mark.parametrize("line", ["disable_tqdm: true", "remove_unused_columns: false", "hub_token: t"])
def test_what_transformers_would_heed_and_a_run_does_not_is_noted(tmp_path: Path, line: str) -> None:
    resolved = run(tmp_path, line + "\n")
    (note,) = resolved.notes
    assert "has no effect" in note
    assert line.partition(":")[0] not in resolved.values


def test_a_key_of_an_unselected_plugin_may_ask_for_nothing(tmp_path: Path) -> None:
    def owned(text: str) -> Resolved:
        path = tmp_path / "c.yaml"
        path.write_text("model_name_or_path: m\n" + text)
        return resolve(gather(path, (), {}), MODELS, owner_of=lambda _: "stages:sft")

    for line in ("packing: false", "packing: null", "neat_packing: false", "predict_with_generate: false"):
        (note,) = owned(line + "\n").notes
        assert "it belongs to stages:sft" in note
    with pytest.raises(Problems, match="stages:sft"):
        owned("packing: true\n")
    with pytest.raises(Problems, match=r"'packing' \(written sft_packing\) is an option(.|\n)*take 'sft_packing' out"):
        owned("sft_packing: true\n")
