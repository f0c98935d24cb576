"""The contract of adapters over all that ship."""

from ft.plugins import find_plugins
from ft.testing.contracts import AdapterContract


class TestFull(AdapterContract):
    plugin = "full"
    merges = False


class TestFreeze(AdapterContract):
    plugin = "freeze"
    keys = {"freeze_trainable_layers": 1, "freeze_extra_modules": "norm"}
    merges = False


class TestFreezeWithNewTokens(AdapterContract):
    plugin = "freeze"
    keys = {"freeze_trainable_layers": 1, "add_special_tokens": "<a>,<b>"}
    merges = False


class TestLora(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4}


class TestRsLora(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "use_rslora": True, "lora_target": "q_proj,v_proj"}


class TestDora(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "use_dora": True}


class TestPissa(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "pissa_init": True}


class TestPissaConverted(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "pissa_init": True, "pissa_iter": -1, "pissa_convert": True}


class TestPissaRsLoraDoraConverted(AdapterContract):
    plugin = "lora"
    keys = {
        "lora_rank": 4,
        "pissa_init": True,
        "pissa_convert": True,
        "use_rslora": True,
        "use_dora": True,
        "additional_target": "norm",
    }


class TestLoraAndWholeModules(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "additional_target": "embed_tokens,lm_head,norm"}


class TestLoraWithNewTokens(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "add_tokens": "<a>,<b>", "add_special_tokens": "<c>"}


class TestPissaWithNewTokens(AdapterContract):
    plugin = "lora"
    keys = {"lora_rank": 4, "pissa_init": True, "add_tokens": "<a>,<b>"}


class TestOft(AdapterContract):
    plugin = "oft"
    keys = {"oft_block_size": 16}


class TestOftAndWholeModules(AdapterContract):
    plugin = "oft"
    keys = {"oft_rank": 2, "additional_target": "embed_tokens", "oft_target": "q_proj,down_proj"}


def test_every_adapter_that_ships_is_in_the_table():
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == ("adapters", "ft-framework")}
    assert {contract.plugin for contract in AdapterContract.__subclasses__()} == shipped
