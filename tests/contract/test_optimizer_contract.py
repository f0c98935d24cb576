"""Every optimizer that ships passes the contract that a third party's does, in each of its modes."""

from pathlib import Path

import pytest

from ft.plugins import find_plugins
from ft.testing.contracts import OptimizerContract

EVERYTHING = {"finetuning_type": "full"}
OFTEN = {"galore_update_interval": 2}


class TestGalore(OptimizerContract):
    plugin = "galore"
    keys = OFTEN


class TestGaloreWithOneProjection(OptimizerContract):
    keys = {"use_galore": True, "galore_rank": 8}
    common = EVERYTHING


@pytest.mark.slow
class TestGaloreByKeyWithAdafactor(OptimizerContract):
    keys = {"use_galore": True, "optim": "adafactor", "galore_proj_type": "full", "galore_target": "mlp"}


class TestGaloreLayerwise(OptimizerContract):
    keys = {"use_galore": True, "galore_layerwise": True, **OFTEN}
    clips = False


class TestApollo(OptimizerContract):
    plugin = "apollo"
    keys = {"apollo_update_interval": 2, "pure_bf16": True, "dtype": None}


@pytest.mark.slow
class TestApolloMini(OptimizerContract):
    keys = {"use_apollo": True, "apollo_rank": 1, "apollo_scale_type": "tensor", "apollo_proj": "svd"}


class TestBadam(OptimizerContract):
    plugin = "badam"
    keys = {"badam_switch_interval": 2, "badam_switch_mode": "random", "pure_bf16": True, "dtype": None}
    common = EVERYTHING

    def steps(self, name):
        return "layers" in name


@pytest.mark.slow
class TestBadamRatio(OptimizerContract):
    keys = {"use_badam": True, "badam_mode": "ratio", "badam_switch_interval": 2, "badam_mask_mode": "scatter"}
    common = EVERYTHING
    decays = False

    def steps(self, name):
        return "embed_tokens" not in name and "lm_head" not in name


class TestAdamMini(OptimizerContract):
    plugin = "adam_mini"
    common = EVERYTHING


class TestMuon(OptimizerContract):
    plugin = "muon"


@pytest.mark.slow
class TestMuonOnLora(OptimizerContract):
    keys = {"use_muon": True}
    common = {"finetuning_type": "lora", "lora_rank": 4}


@pytest.mark.slow
class TestOptimAlone(OptimizerContract):
    keys = {"optim": "adafactor", "pure_bf16": True, "dtype": None}
    clips = False  # its steps do not depend on the size of a gradient


def test_every_optimizer_is_in_the_table():
    tested = {case.plugin or case.__name__ for case in OptimizerContract.__subclasses__()}
    shipped = {info.name for info in find_plugins() if (info.kind, info.distribution) == ("optimizers", "ft-framework")}
    assert shipped - {"optim"} <= tested


@pytest.mark.slow
def test_the_example_of_the_page(tmp_path, tiny_model_dir):
    """What docs/optimizers.md tells a third party to write passes it, too: run as the page says."""
    import subprocess
    import sys

    page = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    for block in blocks:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(block, encoding="utf-8")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["ft.testing.pytest_plugin"]\n', encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
                          capture_output=True, text=True, check=False, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout
