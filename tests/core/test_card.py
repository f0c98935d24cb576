"""The model card: true, complete, free of secrets, and deaf to what data says."""

from __future__ import annotations

import ast

import pytest
from ruamel.yaml import YAML

from ft.card import write_card
from ft.options import DataOptions, ModelOptions
from ft_hookspecs import Change, DataCounts, ModelFiles, Plan, PluginInfo, Run, Source

EVIL = "x\n# Heading\n---\n<script>alert(1)</script> [link](https://evil.example) ![i](http://e) `c` | cell ``` \\| *b*"


@pytest.fixture
def run_of():
    def make(name="org/base", files=None, dataset=("facts",), summary="LoRA rank 8", **details):
        model = ModelOptions(model_name_or_path=name, hf_hub_token="hf_secret")
        data = DataOptions(dataset=list(dataset))
        values = {**model.model_dump(), **data.model_dump(), "learning_rate": 1e-4, "seed": 42, "warmup_steps": 3}
        sources = {key: Source("file", "run.yaml:1") for key in ("hf_hub_token", "learning_rate", "dataset")}
        plugins = (
            PluginInfo("stages", "sft", "x", "ft-framework", "1"),
            PluginInfo("adapters", "lora", "x", "ft-framework", "1"),
        )
        plan = Plan(values, sources, plugins, (model, data), None, secrets=frozenset({"hf_hub_token"}))
        run = Run(plan, model_files=files or ModelFiles(name, revision="abc", description="org/base at abc"))
        run.changes.append((plugins[1], Change(None, summary, details=details)))
        run.counts["train"] = DataCounts(rows=10, examples=9, tokens=1234, supervised=567)
        run.metrics = {"eval_loss_before": 3.21098, "eval_loss": 1.5, "answered": 0.9}
        return run

    return make


def parts(folder):
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return YAML(typ="safe").load(front), body


def code_of(body):
    return body.split("```python\n")[1].split("\n```")[0]


def test_an_adapter_card(run_of, tmp_path):
    (tmp_path / "adapter_config.json").touch()
    write_card(run_of(), tmp_path)
    front, body = parts(tmp_path)
    expected = {"base_model": "org/base", "library_name": "peft", "pipeline_tag": "text-generation"}
    assert front == {**expected, "tags": ["ft", "sft", "lora"]}
    assert "- LoRA rank 8" in body
    assert "| train | 10 | 9 | 1234 | 567 | 0 |" in body
    assert "| eval_loss | 3.211 | 1.5 |" in body
    assert "| answered |  | 0.9 |" in body
    assert "| learning_rate | 0.0001 |" in body
    assert "warmup_steps" not in body
    assert "| stages:sft | ft-framework 1 |" in body
    assert 'AutoModelForCausalLM.from_pretrained("org/base", revision="abc")' in code_of(body)
    ast.parse(code_of(body))


def test_a_full_model_needs_no_peft(run_of, tmp_path):
    write_card(run_of(), tmp_path)
    front, body = parts(tmp_path)
    assert front["library_name"] == "transformers"
    assert "PeftModel" not in body
    ast.parse(code_of(body))


def test_adapters_that_were_merged_are_merged_again_by_the_code(run_of, tmp_path):
    (tmp_path / "adapter_config.json").touch()
    write_card(run_of(merged_adapters=["first"]), tmp_path)
    code = code_of(parts(tmp_path)[1])
    assert code.index('(model, "first").merge_and_unload()') < code.index('(model, "path/to/this/folder")')


def test_secrets_are_not_on_it(run_of, tmp_path):
    write_card(run_of(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "hf_secret" not in text
    assert "hf_hub_token" not in text


def test_a_path_says_nothing_about_the_machine(run_of, tmp_path):
    base = tmp_path / "private" / "model"
    base.mkdir(parents=True)
    write_card(run_of(str(base), ModelFiles(str(base))), tmp_path)
    front, _ = parts(tmp_path)
    assert front["base_model"] == "model"


def test_no_text_becomes_markup(run_of, tmp_path):
    (tmp_path / "adapter_config.json").touch()
    write_card(run_of(EVIL, ModelFiles(EVIL, description=EVIL), (EVIL,), EVIL, merged_adapters=[EVIL]), tmp_path)
    front, body = parts(tmp_path)
    assert front["base_model"] == EVIL
    assert "<script>" not in body.replace(code_of(body), "")
    assert "\n# Heading" not in body
    assert "[link](" not in body.replace(code_of(body), "").replace("\\[link\\](", "")
    assert body.count("```") == 2
    titles = [line for line in body.splitlines() if line.startswith("#")]
    assert len(titles) == 7
    ast.parse(code_of(body))
