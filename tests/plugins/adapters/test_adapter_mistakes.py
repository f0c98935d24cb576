"""What cannot be, in a file that somebody wrote: refused with the key, its line and a remedy."""

from __future__ import annotations

import pytest

from ft import lifecycle
from ft.errors import FtError
from ft.planning import make_plan
from ft.testing import save_tiny_model
from ft_hookspecs import Run

PLANNING = {
    "rank 0": ("lora_rank: 0", "lora_rank", "at least 1"),
    "unknown adapter": ("finetuning_type: lorra", "called 'lorra'", "did you mean 'lora'?"),
    "unknown quantizer": ("quantization_bit: 4\nquantization_method: awq", "called 'awq'", "install the distribution"),
    "no layer": (
        "finetuning_type: freeze\nfreeze_trainable_layers: 0",
        "freeze_trainable_layers: 0",
        "first with a minus",
    ),
    "conversion without PiSSA": ("pissa_convert: true", "nothing to convert", "pissa_init: true"),
    "PiSSA that goes on": ("pissa_init: true\nadapter_name_or_path: org/x", "goes on with one", "create_new_adapter"),
    "PiSSA in shards": ("pissa_init: true\nfsdp: full_shard", "pissa_init cannot be combined with fsdp", "take fsdp"),
    "rate of embeddings alone": ("loraplus_lr_embedding: 1e-5", "without loraplus_lr_ratio", "set loraplus_lr_ratio"),
    "blocks twice": ("finetuning_type: oft\noft_rank: 4\noft_block_size: 16", "are both set", "keep oft_block_size"),
    "no blocks": ("finetuning_type: oft\noft_block_size: 0", "nothing to train", "oft_block_size: 32"),
    "special tokens twice": (
        "add_special_tokens: [<a>]\nnew_special_tokens_config: t.yaml",
        "both name",
        "take it out",
    ),
    "no descriptions": ("init_special_tokens: desc_init", "needs descriptions", "new_special_tokens_config"),
    "somebody else's key": ("oft_rank: 4", "option of the plugin adapters:oft", "set finetuning_type: oft"),
    "tokens twice": ("add_tokens: [<a>, <b>]\nadd_special_tokens: [<b>]", "both name <b>", "in one of them"),
    "no file of tokens": ("new_special_tokens_config: nowhere.yaml", "cannot be read", "one line per token"),
    "unknown module": ("lora_target: [q_proj, vproj]", "vproj", "did you mean v_proj?"),
    "unknown whole module": ("additional_target: [norn]", "norn", "did you mean norm?"),
    "modules of another model": ("lora_target: query_key_value", "named down_proj, embed_tokens", "lora_target: all"),
    "unknown module of freeze": ("finetuning_type: freeze\nfreeze_trainable_modules: [mpl]", "mpl", "mean mlp?"),
    "module inside the layers": ("finetuning_type: freeze\nfreeze_extra_modules: [mlp]", "'mlp'", "name some of them"),
    "too many layers": ("finetuning_type: freeze\nfreeze_trainable_layers: -3", "has 2 layers", "at most 2"),
    "unequal groups": (
        "finetuning_type: freeze\nuse_llama_pro: true\nfreeze_trainable_layers: 3",
        "has 2 layers",
        "at most 2",
    ),
    "unknown module of oft": ("finetuning_type: oft\noft_target: [q_porj]", "q_porj", "mean q_proj?"),
    "blocks that do not divide": ("finetuning_type: oft\noft_block_size: 48", "does not divide the", "be 64, 32, 16"),
    "rank of PiSSA": ("pissa_init: true\nlora_rank: 33", "k_proj has rank 32 at most", "at most 32"),
    "a norm": ("finetuning_type: oft\noft_target: [norm]", "'norm'", "oft_target: all"),
}
SURGERY = {
    "embeddings of PiSSA": ("pissa_init: true\nlora_target: [embed_tokens]", "not a linear layer", "take pissa_init"),
}


@pytest.fixture
def config(tiny_model_dir, tmp_path):
    def written(text, model=tiny_model_dir):
        path = tmp_path / "run.yaml"
        path.write_text(f"model_name_or_path: {model}\ndataset: x.json\noutput_dir: {tmp_path / 'out'}\n{text}\n")
        return path

    return written


@pytest.fixture
def refusal(config):
    """The error that a configuration ends in when its model is loaded."""

    def of(*what):
        planned = make_plan(config(*what))
        with pytest.raises(FtError) as caught:
            begin(*planned)
        return caught.value

    return of


def begin(plan, plugins):
    run = Run(plan)
    for phase in (lifecycle.find_model, lifecycle.load_model, lifecycle.change_model):
        phase(run, plugins)


@pytest.mark.parametrize(("text", "says", "remedy"), PLANNING.values(), ids=PLANNING)
def test_it_is_refused_while_planning_with_line_and_remedy(text, says, remedy, config):
    with pytest.raises(FtError) as caught:
        make_plan(config(text))
    error = str(caught.value)
    assert says in error
    assert remedy in error
    assert "run.yaml:" in error


@pytest.mark.parametrize("keys", ["lora_target: lm_head", "additional_target: [lm_head, model.norm, layers.1.mlp]"])
def test_names_that_the_files_have_otherwise_are_no_reason_to_refuse(keys, config, tmp_path):
    """A head that is tied is in no file; modules hold others."""
    make_plan(config(keys, save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)))


@pytest.mark.parametrize(("text", "says", "remedy"), SURGERY.values(), ids=SURGERY)
def test_it_is_refused_by_the_model_with_line_and_remedy(text, says, remedy, refusal):
    error = str(refusal(text))
    assert says in error
    assert remedy in error
    assert "run.yaml:" in error


def test_what_peft_cannot_turn(refusal, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from ft.testing import tiny_tokenizer

    GPT2LMHeadModel(GPT2Config(vocab_size=384, n_positions=64, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    error = str(refusal("finetuning_type: oft", tmp_path / "gpt2"))
    assert "Conv1D" in error
    assert "set finetuning_type: lora" in error


@pytest.mark.parametrize("key", ["add_tokens: [<a>]", "additional_target: [embed_tokens]", "oft_target: lm_head"])
def test_oft_cannot_keep_tied_embeddings_one(key, config, tmp_path):
    folder = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(FtError, match="share their weights with the head") as caught:
        make_plan(config(f"finetuning_type: oft\n{key}", folder))
    assert "run.yaml:5" in str(caught.value)


def test_a_token_that_is_there_lets_nothing_train(config, tmp_path):
    folder = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    make_plan(config("finetuning_type: oft\nadd_tokens: [a]", folder))


def test_oft_finds_out_with_the_model_what_the_files_do_not_tell(refusal, tmp_path):
    folder = save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    (tmp_path / "tokens.yaml").write_text("<a>: a plan begins\n")
    error = str(refusal(f"finetuning_type: oft\nnew_special_tokens_config: {tmp_path / 'tokens.yaml'}", folder))
    assert "share their weights with the head" in error
