from pathlib import Path

import pytest
from tests.core.data.samples import supervise

from ft.data import IGNORE, template_for
from ft.errors import ConfigError, DataError
from ft_hookspecs import Example, Message
from ft_plugins.data import templates

CONVERSATION = (Message("system", "S"), Message("user", "Q"), Message("assistant", "A"), Message("user", "R"))
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "add"}}
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n"
)
GEMMA = (
    "<bos><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
    "<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\n"
)
RENDERED = {
    "alpaca": "S\n\n### Instruction:\nQ\n\n### Response:\nA<eos>\n\n### Instruction:\nR\n\n### Response:\n",
    "chatml": CHATML,
    "deepseek3": "<bos>S<｜User｜>Q<｜Assistant｜>A<eos><｜User｜>R<｜Assistant｜>",
    "default": "System: S\nHuman: Q\nAssistant: A<eos>\nHuman: R\nAssistant:",
    "empty": "SQA<eos>R",
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "glm4": "[gMASK]<sop><|system|>\nS<|user|>\nQ<|assistant|>\nA<|user|>\nR<|assistant|>\n",
    "granite3": "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Q"
    "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>A<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>R"
    "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "internlm2": "<bos>" + CHATML,
    "llama2": "<bos>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A <eos><bos>[INST] R [/INST]",
    "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "R<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<bos>[INST] S\n\nQ[/INST] A<eos>[INST] R[/INST]",
    "phi3": "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nR<|end|>\n<|assistant|>\n",
    "phi4": "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q<|im_end|><|im_start|>assistant"
    "<|im_sep|>A<|im_end|><|im_start|>user<|im_sep|>R<|im_end|><|im_start|>assistant<|im_sep|>",
    "qwen": CHATML,
    "qwen3": CHATML,
    "qwen3_nothink": CHATML,
    "smollm2": CHATML,
    "vicuna": "<bos>S USER: Q ASSISTANT: A<eos>USER: R ASSISTANT:",
    "yi": CHATML,
    "zephyr": "<|system|>\nS<eos>\n<|user|>\nQ<eos>\n<|assistant|>\nA<eos>\n<|user|>\nR<eos>\n<|assistant|>\n",
}
NAMES = sorted(templates.entries())


@pytest.fixture
def template(hook, plan, tokenizer):
    tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})

    def template(name, **options):
        return template_for(hook, plan(template=name, **options), tokenizer)

    return template


def test_every_template_is_tested():
    assert sorted(RENDERED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_rendered_to_the_letter(template, name):
    assert template(name).render(CONVERSATION, add_generation_prompt=True) == RENDERED[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_tokenizer_renders_the_same(template, tokenizer, name):
    rendered = template(name).render(CONVERSATION[1:])
    dicts = [{"role": m.role, "content": m.content} for m in CONVERSATION[1:]]
    assert tokenizer.apply_chat_template(dicts, tokenize=False) == rendered


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_their_ends_are_learned(template, tokenizer, name):
    chosen = template(name)
    turns = (*CONVERSATION, Message("assistant", "B"))
    samples = supervise(Example("f:1", turns), chosen, tokenizer, cutoff_len=500)
    learned = [tokenizer.decode([t for t in tokens.labels if t != IGNORE]) for tokens in samples]
    end = next((stop for stop in reversed(chosen.stop) if learned[0].rstrip().endswith(stop)), None)
    assert end is not None
    thoughts = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    expected = [f"{thoughts}{answer}{end}" for answer in "AB"]
    assert [text.replace(" ", "") for text in learned] == (expected if name == "qwen3" else ["".join(expected)])


def test_default_systems(template):
    for name, system in (("qwen", "You are Qwen"), ("smollm2", "named SmolLM"), ("vicuna", "A chat between")):
        assert system in template(name).render(CONVERSATION[1:])
        given = template(name, default_system="Mine.").render(CONVERSATION[1:])
        assert "Mine." in given
        assert system not in given


def test_thoughts_of_qwen3(template):
    turns = (
        Message("user", "Q"),
        Message("assistant", "A", reasoning="old"),
        Message("user", "R"),
        Message("assistant", "<think>\nnew\n</think>\n\nB"),
    )
    rendered = template("qwen3").render(turns)
    assert "old" not in rendered
    assert rendered.endswith("<|im_start|>assistant\n<think>\nnew\n</think>\n\nB<|im_end|>\n")
    prompt = template("qwen3", enable_thinking=False).render(turns[:1], add_generation_prompt=True)
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["qwen", "qwen3"])
def test_tools_are_written(template, tokenizer, name):
    turns = (
        Message("user", "Q"),
        Message("assistant", "", (CALL,)),
        Message("tool", "2"),
        Message("tool", "3"),
        Message("assistant", "A"),
    )
    rendered = template(name).render(turns, tools=(TOOL,))
    assert '<tools>\n{"type": "function", "function": {"name": "add"}}\n</tools>' in rendered
    assert '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call><|im_end|>' in rendered
    assert (
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        in rendered
    )
    samples = supervise(Example("f:1", turns, tools=(TOOL,)), template(name), tokenizer, cutoff_len=2000)
    learned = "".join(tokenizer.decode([t for t in tokens.labels if t != IGNORE]) for tokens in samples)
    assert "<tool_call>" in learned
    assert "tool_response" not in learned


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"qwen", "qwen3", "qwen3_nothink"}))
def test_other_templates_refuse_tools_instead_of_leaving_them_out(template, name):
    chosen = template(name)
    answer = Message("assistant", "A")
    for turns, tools in (
        ((CONVERSATION[1], answer), (TOOL,)),
        ((CONVERSATION[1], Message("assistant", "", (CALL,))), ()),
        ((CONVERSATION[1], answer, Message("tool", "2"), answer), ()),
    ):
        with pytest.raises(DataError, match="cannot write tools"):
            chosen.render(turns, tools=tools)


def test_an_unknown_template_gives_the_nearest(template):
    with pytest.raises(DataError, match="did you mean 'llama3'") as caught:
        template("lama3")
    assert caught.value.exit_code == 4
    assert "chatml" in caught.value.why


def test_a_template_needs_the_eos_token_it_writes(template, tokenizer):
    tokenizer.eos_token = None
    assert template("chatml").stop == ("<|im_end|>",)
    with pytest.raises(ConfigError, match="eos token"):
        template("default")


def test_the_page_on_data_lists_the_templates():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    listed = page.partition("The named templates are")[2].partition("A named")[0]
    assert [name for name in NAMES if f"`{name}`" not in listed] == []
