"""What cannot be with an optimizer is refused while planning, with the reason and what to write instead."""

import json

import pytest

from ft.errors import FtError
from ft.planning import make_plan

GALORE, APOLLO, BADAM = ("use_galore=true",), ("use_apollo=true",), ("use_badam=true",)
FULL = ("finetuning_type=full",)
TWO = {"WORLD_SIZE": "2"}

TABLE = [
    # words, environment, part of the message, part of the reason or remedy
    ((*GALORE, "use_apollo=true", *FULL), {}, "galore and apollo each make the optimizer", "keep one"),
    ((*GALORE, "use_muon=true", "use_badam=true", *FULL), {}, "galore and badam and muon each make", "keep one"),
    ((*GALORE, "optim=sgd", *FULL), {}, "galore and optim: sgd are two optimizers", "take optim out"),
    (("use_muon=true", "optim=adafactor"), {}, "muon and optim: adafactor are two optimizers", "adamw_torch"),
    ((*APOLLO, "optim=adamw_torch_fused", *FULL), {}, "apollo and optim: adamw_torch_fused", "take optim out"),
    (("use_adam_mini=true", "optim_args=a=1", *FULL), {}, "optim_args has no effect with adam_mini", "keys of"),
    (GALORE, {}, "galore with finetuning_type: lora", "finetuning_type: full"),
    (APOLLO, {}, "apollo with finetuning_type: lora", "finetuning_type: full"),
    (BADAM, {}, "badam with finetuning_type: lora", "finetuning_type: full"),
    (("use_adam_mini=true",), {}, "adam_mini with finetuning_type: lora", "finetuning_type: full"),
    ((*GALORE, *FULL, "deepspeed=ds.json"), {}, "galore cannot be combined with deepspeed", "sharding"),
    ((*APOLLO, *FULL, "deepspeed=ds.json"), {}, "apollo cannot be combined with deepspeed", "sharding"),
    (("use_muon=true", *FULL, "fsdp=full_shard"), {}, "muon cannot be combined with fsdp", "sharding"),
    ((*GALORE, *FULL, "galore_layerwise=true", "gradient_accumulation_steps=4"), {}, "galore_layerwise with", "1"),
    ((*APOLLO, *FULL, "apollo_layerwise=true", "max_grad_norm=1"), {}, "apollo_layerwise with max_grad_norm", ": 0"),
    ((*GALORE, *FULL, "galore_layerwise=true"), TWO, "galore_layerwise with 2 processes", "one process"),
    ((*BADAM, *FULL), TWO, "use_badam with 2 processes", "one process"),
    ((*BADAM, *FULL, "badam_mode=ratio", "gradient_accumulation_steps=2"), {}, "badam_mode: ratio with grad", ": 1"),
    ((*BADAM, *FULL, "badam_mode=ratio", "weight_decay=0.1"), {}, "badam_mode: ratio with weight_decay", "layer"),
    ((*BADAM, *FULL, "badam_switch_mode=fixed"), {}, "fixed without badam_start_block", "set badam_start_block"),
    ((*APOLLO, *FULL, "apollo_proj_type=left"), {}, "apollo_proj_type: left", "apollo_proj_type: std"),
    ((*GALORE, *FULL, "optim=adamw_8bit", "use_cpu=true"), {}, "needs an NVIDIA GPU", "take optim out"),
    ((*GALORE, *FULL, "optim=adafactor", "pure_bf16=true"), {}, "adafactor and pure_bf16", "bf16: true"),
    ((*GALORE, *FULL, "galore_rank=0"), {}, "galore_rank", "above 0"),
    ((*GALORE, *FULL, "galore_proj_type=up"), {}, "galore_proj_type", "std"),
    (("galore_rank=8", *FULL), {}, "'galore_rank' is an option of the plugin optimizers:galore", "galore"),
    (
        ("optim=galore_adamw", "optim_target_modules=all-linear"),
        {},
        "optim: galore_adamw is not available",
        "use_galore",
    ),
    (("optim=apollo_adamw_layerwise",), {}, "is not available", "use_apollo: true and apollo_layerwise: true"),
    (("optim=lomo",), {}, "optim: lomo is not available", "galore_layerwise: true"),
    (("optim=adamw_anyprecision",), {}, "is not available", "pure_bf16: true"),
    (("optim=paged_adamw_8bit", "use_cpu=true"), {}, "needs an NVIDIA GPU", "optim: adamw_8bit"),
    (("optim=adamw_torch", "optim_args=momentum=0.9"), {}, "optim_args: momentum cannot be given", "none"),
    (("optim=sgd", "optim_args=momentom=0.9"), {}, "optim_args: momentom cannot be given", "momentum"),
    (("optim=sgd", "optim_args=momentum"), {}, "optim_args: momentum cannot be given", "name=value"),
    (("optim=adamw",), {}, "optim", "adamw_torch"),
]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    (tmp_path / "ds.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def make(*words):
        return make_plan(None, ["model_name_or_path=nowhere", f"dataset={data}", "output_dir=out", *words])

    return make


@pytest.mark.parametrize(("words", "environ", "what", "way"), TABLE, ids=["-".join(row[0])[:70] for row in TABLE])
def test_refused(words, environ, what, way, plan, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FtError) as caught:
        plan(*words)
    said = str(caught.value)
    assert what in said
    assert way in said


@pytest.mark.parametrize(
    ("name", "package", "line"),
    [
        ("adamw_8bit", "bitsandbytes", "pip install 'ft-framework[bnb]'"),
        ("schedule_free_adamw", "schedulefree", "pip install 'schedulefree>=1.4'"),
        ("stable_adamw", "optimi", "pip install torch-optimi"),
        ("adamw_torch_8bit", "torchao", "pip install torchao"),
    ],
)
def test_a_missing_package_comes_with_its_line(name, package, line, plan, monkeypatch):
    from ft_plugins.optimizers import optim

    monkeypatch.setattr(optim, "find_spec", lambda asked: None if asked == package else object())
    with pytest.raises(FtError) as caught:
        plan(f"optim={name}")
    assert line in str(caught.value)
    assert caught.value.exit_code == 5


def test_states_that_cannot_be_saved_exactly_are_not_saved(plan, monkeypatch):
    from ft_plugins.optimizers import optim

    monkeypatch.setattr(optim, "find_spec", lambda _: object())
    with pytest.raises(FtError, match="cannot be resumed exactly"):
        plan("optim=grokadamw")
    plan("optim=grokadamw", "save_only_model=true")
    with pytest.raises(FtError, match="load_best_model_at_end"):
        plan("optim=schedule_free_sgd", "load_best_model_at_end=true", "val_size=0.1", "eval_strategy=steps")


@pytest.mark.parametrize("words", [GALORE, (*GALORE, "optim=adafactor"), APOLLO, BADAM, ("use_muon=true",)])
def test_what_can_be_is_planned(words, plan):
    made, _ = plan(*words, *FULL)
    assert next(info.name for info in made.plugins if info.kind == "optimizers") != "optim"


def test_a_neutral_key_of_an_unselected_optimizer_is_noted(plan):
    made, _ = plan("use_galore=false", "galore_rank=16")
    assert any("galore_rank has no effect" in note for note in made.notes)
