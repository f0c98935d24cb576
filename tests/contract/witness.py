"""A plugin that watches a run of a tiny model from inside: what moved, what did not, and whether what was saved is it.

It writes ``witness.json`` beside the model. Frozen weights must keep every bit, whatever form a quantizer gave them.
"""

from __future__ import annotations

import json

from ft_hookspecs import StashKey, hookimpl

ft_api_version = 1
START: StashKey[dict] = StashKey("values before the first step")
WITHOUT_EFFECT = {"rm": "v_head.summary.bias"}
"""What trains and cannot move: a bias is in both scores of a pair, and the loss knows their difference alone."""


@hookimpl
def ft_callbacks(run):
    from transformers import TrainerCallback

    class Snapshot(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            run.stash[START] = {name: tensor.detach().clone() for name, tensor in _tensors(run.model)}

    return [Snapshot()]


@hookimpl
def ft_run_finished(run):
    import torch

    start = run.stash[START]
    trains = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    moved = {name for name, tensor in _tensors(run.model) if not torch.equal(tensor, start[name])}
    idle = WITHOUT_EFFECT.get(run.plan.get("stage"))
    report = {
        "trains": len(trains),
        "still": sorted(name for name in trains - moved if not idle or not name.endswith(idle)),
        "stray": sorted(moved - trains),
        "unlike": _unlike(run),
    }
    (run.output_dir / "witness.json").write_text(json.dumps(report))


def _tensors(model):
    """Parameters as they are stored; buffers (rotary tables that grow, say) are no weights."""
    return model.named_parameters()


def _unlike(run):
    """The weights in the files that are not those of the model, by name."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    files = sorted(run.output_dir.glob("*model*.safetensors"))
    saved = {name: tensor for path in files for name, tensor in load_file(path).items()}
    if isinstance(run.model, PeftModel):
        held = get_peft_model_state_dict(run.model, save_embedding_layers=False)
    else:
        held = {name: tensor for name, tensor in run.model.state_dict().items() if not name.startswith("v_head")}
    assert saved, "nothing was saved"
    unlike = [name for name, tensor in saved.items() if name not in held or not torch.equal(tensor, held[name].cpu())]
    missing = [] if isinstance(run.model, PeftModel) else sorted(_untied(run.model, held) - saved.keys())
    return sorted(unlike) + missing


def _untied(model, held):
    return set(held) - set(model.all_tied_weights_keys)
