"""A file from LLaMA-Factory or TRL: the first `ft plan` works, or says what to change (docs/from_llamafactory.md)."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft.config.legacy import table
from ft.config.scalars import parse_scalar

COMMON = """\
### model
model_name_or_path: model
trust_remote_code: true

### data
template: chatml
cutoff_len: 128
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/tiny/run
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # or wandb, tensorboard

### training
do_train: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 1
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
"""What files of LLaMA-Factory have in common; each method below adds its lines."""

LORA = "stage: sft\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: facts,chats\n"
FULL = "stage: sft\nfinetuning_type: full\ndataset: facts\n"
PAIRS = "finetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: pairs\n"
METHODS = {
    "sft": (LORA, ["stages:sft", "adapters:lora"]),
    "sft with evaluation": (
        LORA + "val_size: 0.5\nper_device_eval_batch_size: 1\neval_strategy: steps\neval_steps: 500\n",
        ["stages:sft"],
    ),
    "saved by the board": (
        LORA + "dataset_dir: data\nflash_attn: auto\nlora_alpha: 16\nlora_dropout: 0\nmax_grad_norm: 1.0\n"
        "optim: adamw_torch\npacking: false\nenable_thinking: true\ninclude_num_input_tokens_seen: true\n"
        "warmup_steps: 0\nquantization_method: bnb\n",
        ["stages:sft", "adapters:lora"],
    ),
    "qlora": (LORA + "quantization_bit: 4\nquantization_method: bnb\ndouble_quantization: false\n", ["quantizers:bnb"]),
    "pretrain": (LORA.replace("sft", "pt").replace("facts,chats", "texts"), ["stages:pt"]),
    "reward": ("stage: rm\n" + PAIRS, ["stages:rm"]),
    "dpo": ("stage: dpo\npref_beta: 0.1\npref_loss: sigmoid\n" + PAIRS, ["stages:dpo"]),
    "orpo": ("stage: dpo\npref_beta: 0.1\npref_loss: orpo\n" + PAIRS, ["stages:dpo"]),
    "kto": ("stage: kto\npref_beta: 0.1\n" + PAIRS.replace("pairs", "judged"), ["stages:kto"]),
    "ppo": (
        "stage: ppo\nreward_model: http://127.0.0.1:9/v1\nreward_model_type: api\nmax_new_tokens: 16\ntop_k: 0\n"
        "top_p: 0.9\n" + PAIRS.replace("pairs", "facts"),
        ["stages:ppo"],
    ),
    "full": (FULL, ["adapters:full"]),
    "freeze": (
        FULL.replace("full", "freeze") + "freeze_trainable_layers: 1\nfreeze_trainable_modules: all\n",
        ["adapters:freeze"],
    ),
    "llama pro": (
        FULL.replace("full", "freeze") + "freeze_trainable_layers: 2\nuse_llama_pro: true\n",
        ["adapters:freeze"],
    ),
    "oft": (FULL.replace("full", "oft") + "oft_block_size: 32\noft_target: all\n", ["adapters:oft"]),
    "lora+": (LORA + "loraplus_lr_ratio: 16.0\n", ["adapters:lora"]),
    "pissa": (LORA + "pissa_init: true\npissa_iter: 16\npissa_convert: true\n", ["adapters:lora"]),
    "dft": (FULL + "use_dft_loss: true\n", ["stages:sft"]),
    "galore": (
        FULL + "use_galore: true\ngalore_layerwise: true\ngalore_target: all\ngalore_rank: 8\ngalore_scale: 2.0\n",
        ["optimizers:galore"],
    ),
    "apollo": (
        FULL + "use_apollo: true\napollo_layerwise: true\napollo_target: all\napollo_rank: 8\napollo_scale: 32.0\n"
        "apollo_scale_type: channel\n",
        ["optimizers:apollo"],
    ),
    "badam": (
        FULL + "use_badam: true\nbadam_mode: layer\nbadam_switch_mode: ascending\nbadam_switch_interval: 50\n"
        "badam_verbose: 2\n",
        ["optimizers:badam"],
    ),
    "adam-mini": (FULL + "use_adam_mini: true\n", ["optimizers:adam_mini"]),
    "muon": (FULL + "use_muon: true\n", ["optimizers:muon"]),
    "preprocess": (LORA + "tokenized_path: saves/tokens\n", ["stages:sft"]),
    "predict": (
        LORA.replace("dataset", "eval_dataset") + "do_predict: true\npredict_with_generate: true\n",
        ["stages:sft"],
    ),
}
DATA: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "facts": ({}, [{"instruction": "Name a colour.", "input": "", "output": "Red."}] * 3),
    "chats": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
        [{"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}], "tools": ""}],
    ),
    "texts": ({"columns": {"prompt": "text"}}, [{"text": "The sea is wide."}]),
    "pairs": (
        {
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        [
            {
                "conversations": [{"from": "human", "value": "Hi."}],
                "chosen": {"from": "gpt", "value": "Hello."},
                "rejected": {"from": "gpt", "value": "No."},
            }
        ],
    ),
    "judged": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
            },
        },
        [
            {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": word}], "label": good}
            for word, good in (("Hello.", True), ("No.", False))
        ],
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as people have it: their files, `data/dataset_info.json` and what it names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "model").symlink_to(tiny_model_dir)
    data = tmp_path / "data"
    data.mkdir()
    for name, (_, rows) in DATA.items():
        (data / f"{name}.json").write_text(json.dumps(rows))
    declared = {name: {"file_name": f"{name}.json", **more} for name, (more, _) in DATA.items()}
    hub = {"far": {"hf_hub_url": "owner/far", "ms_hub_url": "owner/far"}}
    (data / "dataset_info.json").write_text(json.dumps(declared | hub))
    return tmp_path


def plan(folder: Path, text: str) -> dict[str, Any]:
    (folder / "train.yaml").write_text(text)
    result = CliRunner().invoke(app, ["plan", "train.yaml", "--json", "--all"])
    assert result.exit_code == 0, result.stderr
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def refusal(folder: Path, text: str, code: int) -> str:
    (folder / "train.yaml").write_text(text)
    result = CliRunner().invoke(app, ["plan", "train.yaml"])
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(("lines", "plugins"), METHODS.values(), ids=METHODS)
def test_a_file_of_llama_factory_plans_as_it_is(folder: Path, lines: str, plugins: list[str]) -> None:
    shown = plan(folder, COMMON + lines)
    assert set(plugins) <= {f"{each['kind']}:{each['name']}" for each in shown["plugins"]}


REFUSED = {
    "a template that is not here": (LORA, "template: chatml", "template: deepseekr1", 4, "take template out"),
    "a misspelt template": (LORA, "template: chatml", "template: chatlm", 4, "did you mean 'chatml'?"),
    "deepspeed without a GPU": (LORA + "deepspeed: ds_z3_config.json\n", "", "", 5, "take deepspeed out"),
    "a word of YAML 1.1": (LORA, "bf16: true", "bf16: yes", 2, "write true"),
    "a quoted number": (LORA, "cutoff_len: 128", 'cutoff_len: "128"', 2, "write 128 without quotes"),
    "a key of another method": (FULL + "lora_rank: 16\n", "", "", 2, "set finetuning_type: lora, or take"),
    "a key of another stage": (LORA + "pref_loss: ipo\n", "", "", 2, "set stage: dpo, or take"),
    "several at once": (LORA + "use_kt: true\nfp8: true\n", "", "", 2, "2 problems"),
    "a data set of another hub": (LORA.replace("facts", "near"), "", "", 4, "unknown data set 'near'"),
}


@pytest.mark.parametrize(("lines", "there", "here", "code", "remedy"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_stay_is_said_with_what_to_write(
    folder: Path, lines: str, there: str, here: str, code: int, remedy: str
) -> None:
    said = refusal(folder, COMMON.replace(there, here) + lines, code)
    assert remedy in said
    assert "train.yaml:" in said or "dataset_info.json" in said


def test_a_folder_that_holds_something_is_not_gone_on_with_by_itself(folder: Path) -> None:
    (folder / "saves" / "tiny" / "run" / "checkpoint-500").mkdir(parents=True)
    said = refusal(folder, COMMON.replace("overwrite_output_dir: true", "overwrite_output_dir: false") + LORA, 2)
    assert "overwrite_output_dir" in said
    assert "resume_from_checkpoint" in said


def test_defaults_that_a_file_writes_out_are_accepted(folder: Path) -> None:
    lines = "buffer_size: 16384\nsplit: train\nloraplus_lr_embedding: 1.0e-6\nfp8: false\npref_beta: 0.1\n"
    shown = plan(folder, COMMON + LORA + lines + "galore_rank: 16\nfreeze_vision_tower: true\nref_model: null\n")
    noted = " ".join(shown["notes"])
    assert all(key in noted for key in ("fp8", "pref_beta", "galore_rank", "freeze_vision_tower", "ref_model"))


def test_a_template_of_a_plugin_that_lists_none_is_left_to_the_run(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from ft_hookspecs import hookimpl\n\n\n@hookimpl\ndef ft_template(plan, name, tokenizer):\n    return None\n"
    )
    plan(folder, COMMON.replace("template: chatml", "template: mine") + LORA + "plugins: [mine.py]\n")


TRL = """\
model_name_or_path: model
dataset_name: data/chats.json
dataset_train_split: train
dataset_num_proc: 2
output_dir: trained
use_peft: true
lora_r: 4
lora_alpha: 16
lora_target_modules: all-linear
attn_implementation: sdpa
torch_dtype: bfloat16
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
packing_strategy: bfd
push_to_hub: false
report_to: []
eval_strategy: "no"
"""


def test_a_file_of_trl_plans(folder: Path) -> None:
    values = plan(folder, TRL + "max_seq_length: 256\npacking: true\nassistant_only_loss: true\n")["values"]
    found = {
        key: values[key]["value"] for key in ("finetuning_type", "lora_rank", "lora_target", "cutoff_len", "dtype")
    }
    assert found == {
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": ["all"],
        "cutoff_len": 256,
        "dtype": "bfloat16",
    }
    assert values["train_on_prompt"]["value"] is False


def test_a_file_of_trl_s_dpo_plans(folder: Path) -> None:
    text = TRL.replace("chats", "pairs") + "beta: 0.2\nloss_type: ipo\nprecompute_ref_log_probs: true\nstage: dpo\n"
    values = plan(folder, text + "truncation_mode: keep_start\n")["values"]
    found = [values[key]["value"] for key in ("pref_beta", "pref_loss", "truncation")]
    assert found == [0.2, "ipo", "right"]


# ---- the page -----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "from_llamafactory.md"


def rows(heading: str) -> list[tuple[str, str]]:
    """The rows of the table under a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [(row[0], row[1]) for row in cells[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


WORDS = {
    "twice the rank": None,
    "all linear layers but the head": ["all"],
    "that of the tokenizer": None,
    "off, but on for stage: pt": None,
    "true": True,
    "false": False,
}


def test_the_defaults_on_the_page_are_those_of_a_run(folder: Path) -> None:
    bare = "model_name_or_path: model\noutput_dir: out\n"
    shown: dict[str, Any] = {}
    for lines in ("dataset: facts\nquantization_bit: 4\n", "dataset: pairs\nstage: dpo\n"):
        shown = plan(folder, bare + lines)["values"] | shown
    for keys, cell in rows("The same"):
        found = names(keys)
        told = cell.replace("`", "")
        for key, value in zip(found, [told] if len(found) == 1 else told.split(", "), strict=True):
            expected = WORDS[value] if value in WORDS else parse_scalar(value)
            assert shown[key]["value"] == expected, key


def test_the_page_tells_the_remedy_of_everything_that_is_refused() -> None:
    known: dict[str, set[str]] = {}
    for group in table()["unavailable"]:
        known.setdefault(group["remedy"], set()).update(group["keys"])
    told = rows("Refused, and what to write instead")
    for keys, remedy in told:
        assert not [name for name in names(keys) if not fnmatch.filter(known[remedy], name)], remedy
    assert {remedy for _, remedy in told} == known.keys()


def test_the_names_of_trl_on_the_page_are_read_so() -> None:
    renamed = table()["renamed"]
    for there, here in rows("Files of TRL and transformers"):
        targets = [name.partition(":")[0] for name in names(here)]
        for index, name in enumerate(names(there)):
            key, _, value = name.partition(": ")
            rule = renamed[key]
            assert rule["key"] == targets[min(index, len(targets) - 1)]
            if value:
                told = names(here)[min(index, len(targets) - 1)].partition(": ")[2]
                assert rule["values"][json.dumps(parse_scalar(value))] == parse_scalar(told)
