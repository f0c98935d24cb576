"""Merging and checking: types, choices, bounds, owners, provenance, and one report for all that is wrong."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from ft.config import Resolved, gather, resolve, trainer_options
from ft.errors import Problems
from ft.options import DataOptions, ModelOptions, RunOptions
from ft_hookspecs import PluginOptions
from ft_plugins.selectors import OPTIONS as SELECTING

CORE = ((RunOptions, "ft"), (ModelOptions, "ft"), (DataOptions, "ft"), (SELECTING, "ft-framework"))


class Colour(Enum):
    RED = "red"


class Sparse(PluginOptions):
    sparse_ratio: float = Field(0.5, gt=0, lt=1, description="Share of zeros.")
    sparse_rank: int = Field(8, gt=0)
    sparse_bits: Literal[4, 8] | None = None
    sparse_level: int | str = 1
    sparse_targets: tuple[str, ...] = ()
    sparse_weights: list[float] = Field(default_factory=list)
    sparse_names: list[Literal["a", "b"]] | None = None
    sparse_folder: Path | None = None
    sparse_colour: Colour = Colour.RED
    sparse_extra: dict[str, int] | str | None = None
    sparse_password: str | None = Field(None)
    sparse_pin: str | None = Field(None, min_length=4, json_schema_extra={"secret": True})

    @model_validator(mode="after")
    def _rule(self) -> Sparse:
        if self.sparse_ratio > 0.9 and self.sparse_rank < 4:
            raise ValueError("sparse_ratio above 0.9 needs sparse_rank of 4 or more")
        return self


def trainer() -> tuple[type[PluginOptions], str]:
    claimed = {key for model, _ in CORE for key in model.model_fields}
    return trainer_options(frozenset(claimed)), "transformers"


def everything(*words: str, text: str = "", folder: Path | None = None, **options: object) -> Resolved:
    path = None
    if folder is not None:
        path = folder / "c.yaml"
        path.write_text(text, encoding="utf-8")
    models = (*CORE, (Sparse, "plugin 'sparse'"), trainer())
    given = gather(path, words, {})
    return resolve(given, models, **options)


def from_file(folder: Path, line: str) -> object:
    resolved = everything(text=f"model_name_or_path: m\n{line}\n", folder=folder)
    return resolved.values[line.partition(":")[0]]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1", 1.0), ("cutoff_len: 1e3", 1000), ("max_samples: null", None), ("run_name: 007", "007"),
        ("model_revision: 1.10", "1.10"), ("output_dir: 2024", "2024"), ("resume_from_checkpoint: true", True),
        ("resume_from_checkpoint: last", "last"), ("do_train: True", True), ("dataset: a, b", ["a", "b"]),
        ("dataset: [a, b]", ["a", "b"]), ("dataset: 7", ["7"]), ("sparse_targets: q,v", ["q", "v"]),
        ("sparse_weights: 0.5,1", [0.5, 1.0]), ("sparse_weights: 1", [1.0]), ("sparse_names: a,b", ["a", "b"]),
        ("sparse_folder: /x", "/x"), ("sparse_colour: red", "red"), ("sparse_bits: 4", 4), ("sparse_level: 2", 2),
        ("sparse_level: high", "high"), ("sparse_extra: {a: 1}", {"a": 1}), ("sparse_extra: f.json", "f.json"),
        ("sparse_extra: '{\"a\": 1}'", {"a": 1}), ("lr_scheduler_type: cosine", "cosine"), ("eval_strategy: no", "no"),
        ("debug: underflow_overflow", "underflow_overflow"), ("label_names: a,b", ["a", "b"]),
        ("warmup_steps: 0.1", 0.1), ("local_rank: 3", 3), ("fsdp: true", True), ("deepspeed: ds.json", "ds.json"),
        ("fsdp_config: {min_num_params: 1}", {"min_num_params": 1}), ("trackio_static_space_id: false", False),
    ],
)  # fmt: skip
def test_values_that_fit(tmp_path: Path, line: str, value: object) -> None:
    found = from_file(tmp_path, line)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sparse_rank: '8x'", 'a whole number, above 0; given "8x"'),
        ("sparse_rank: '8'", "write 8 without quotes"),
        ("sparse_rank: 2_048", "write 2048 without _"),
        ("plot_loss: yes", "write true"),
        ("plot_loss: Off", "write false"),
        ("fsdp: [full_shard, auto_wrap]", "write it as text: full_shard auto_wrap"),
        ("sparse_rank: true", "given true"),
        ("sparse_rank: 1.5", "given 1.5"),
        ("sparse_rank: null", "take the line out"),
        ("sparse_rank: 0", "above 0; given 0"),
        ("sparse_ratio: 1.0", "a number, above 0, below 1; given 1.0"),
        ("sparse_ratio: .nan", "not a finite number"),
        ("learning_rate: 1e999", "not a finite number"),
        ("sparse_bits: 5", "one of 4, 8 or null; given 5"),
        ("sparse_bits: '4'", "write 4 without quotes"),
        ("sparse_colour: blue", 'given "blue"'),
        ("sparse_names: a,c", "a list of one of a, b (or text with commas) or null"),
        ("sparse_extra: '{a: '", "not well-formed"),
        ("do_train: yes", 'true or false; given "yes"'),
        ("do_train: 1", "true or false; given 1"),
        ("run_name: true", "text or null; given true"),
        ("run_name: [a]", 'given ["a"]'),
        ("dataset: {a: 1}", "a list of text"),
        ("dataset: true", "a list of text"),
        ("lr_scheduler_type: cosin", "did you mean 'cosine'?"),
        ("optim: adamw", "adamw_torch, adamw_torch_fused"),
        ("per_device_train_batch_size: 0", "at least 1"),
        ("val_size: 1.5", "a share below 1 or a whole number"),
        ("sparse_password: [hunter2]", 'given "***"'),
        ("sparse_pin: 'abc'", 'given "***"'),
        ("hub_token: [hf_abcdefghijklmnopqrstuvwxyz]", 'given "***"'),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_line(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(Problems) as caught:
        from_file(tmp_path, line)
    (problem,) = caught.value.problems
    assert expected in str(problem)
    assert problem.where == f"{tmp_path / 'c.yaml'}:2"
    assert problem.exit_code == 2


def test_command_line_words_may_be_text() -> None:
    resolved = everything("model_name_or_path=m", "--run_name", "true", "--output_dir", "[x]", "--default_system", "1")
    assert [resolved.values[key] for key in ("run_name", "output_dir", "default_system")] == ["true", "[x]", "1"]


def test_all_problems_in_one_report_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "model_name_or_path: m\nlerning_rate: 1\nsparse_rank: 8x\nzzzz: 1\nsparse_rank: 2\n"
    text += "val_size: .1\neval_dataset: e\n"
    with pytest.raises(Problems) as caught:
        everything("oops", "--sparse_bits", "3", text=text, folder=tmp_path)
    path = tmp_path / "c.yaml"
    problems = [(each.where, each.what.split(":")[0]) for each in caught.value.problems]
    assert problems == [
        ("--sparse_bits", "sparse_bits"),
        (f"{path}:2", "unknown key 'lerning_rate'"),
        (f"{path}:3", "sparse_rank"),
        (f"{path}:4", "unknown key 'zzzz'"),
        (f"{path}:5", "the key 'sparse_rank' is given twice"),
        (f"{path}:6; {path}:7", "eval_dataset and val_size cannot both be given"),
        ("command line", "'oops' does not belong to any key"),
    ]
    assert "did you mean 'learning_rate'?" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_required_key_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="'model_name_or_path' is required"):
        everything(text="cutoff_len: 5\n", folder=tmp_path)


def test_rules_between_keys_name_the_places_of_both() -> None:
    with pytest.raises(Problems) as caught:
        everything("model_name_or_path=m", "--sparse_ratio", "0.95", "sparse_rank=2")
    assert caught.value.problems[0].where == "--sparse_ratio; command line: sparse_rank"


def test_an_unselected_plugin_is_named_with_how_to_select_it() -> None:
    owners = {"comet_project": "loggers:comet", "lora_rank": "adapters:lora", "pref_beta": "stages:dpo, stages:kto"}
    with pytest.raises(Problems) as caught:
        everything("model_name_or_path=m", "comet_project=x", "lora_rank=16", "pref_beta=0.2", owner_of=owners.get)
    first, second, third = caught.value.problems
    assert "loggers:comet" in first.what
    assert "--plugin loggers:comet," in first.remedy
    assert "set finetuning_type: lora," in second.remedy
    assert "stages:dpo, stages:kto" in third.what
    assert "set stage: dpo or kto," in third.remedy


def test_a_key_claimed_twice_names_both_claimants() -> None:
    class Rival(PluginOptions):
        sparse_rank: int = 1

    with pytest.raises(Problems) as caught:
        resolve(gather(None, [], {}), [(Sparse, "plugin 'sparse'"), (Rival, "plugin 'rival'")])
    (problem,) = caught.value.problems
    assert "sparse_rank" in problem.what
    assert problem.where == "plugin 'sparse'; plugin 'rival'"


def test_a_model_that_two_plugins_share_is_one_claim() -> None:
    resolved = resolve(gather(None, [], {}), [(Sparse, "plugin 'a'"), (Sparse, "plugin 'b'")])
    assert len(resolved.models) == 1


def test_provenance_of_every_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\ncutoff_len: 5\nseed: 1\n")
    given = gather(tmp_path / "c.yaml", ["--sparse_rank", "4"], {"FT_SEED": "2"})
    resolved = resolve(given, (*CORE, (Sparse, "plugin 'sparse'"), trainer()))
    said = {key: (source.kind, str(source)) for key, source in resolved.sources.items()}
    assert said["cutoff_len"] == ("file", f"{tmp_path / 'c.yaml'}:2")
    assert said["seed"] == ("environment", "FT_SEED")
    assert said["sparse_rank"] == ("command line", "--sparse_rank")
    assert said["sparse_ratio"] == ("plugin default", "default of plugin 'sparse'")
    assert said["learning_rate"] == ("library default", "default of transformers")
    assert said.keys() == resolved.values.keys()


def test_models_are_typed_and_secrets_are_named() -> None:
    resolved = everything("model_name_or_path=m", "sparse_folder=/x", "sparse_targets=q,v")
    sparse = next(model for model in resolved.models if isinstance(model, Sparse))
    assert sparse.sparse_folder == Path("/x")
    assert sparse.sparse_targets == ("q", "v")
    assert {"hf_hub_token", "hub_token", "sparse_password", "sparse_pin"} <= resolved.secrets
    assert not resolved.secrets & {"max_samples", "include_num_input_tokens_seen"}


def test_negated_flags() -> None:
    resolved = everything("model_name_or_path=m", "--no_do_train", "--no-trust-remote-code")
    assert resolved.values["do_train"] is False
    assert resolved.values["trust_remote_code"] is False
    with pytest.raises(Problems, match="unknown key 'no_cutoff_len'"):
        everything("model_name_or_path=m", "--no_cutoff_len")
    with pytest.raises(Problems, match="unknown key 'no_do_train'"):
        everything("model_name_or_path=m", "--no_do_train", "--do_train")


def test_a_partial_look_reports_nothing_and_falls_back_to_defaults() -> None:
    settings = gather(None, ["--stage", "[x]", "quantization_bit=many", "plot_loss=true", "nonsense=1"], {})
    resolved = resolve(settings, CORE, partial=True)
    assert resolved.values["quantization_bit"] is None
    assert resolved.values["plot_loss"] is True
    assert "model_name_or_path" not in resolved.values
