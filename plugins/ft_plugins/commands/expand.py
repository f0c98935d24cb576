"""``ft expand``: a model with more blocks, for LLaMA-Pro (Wu et al. 2024, arXiv:2401.02415)."""

from pathlib import Path
from typing import Annotated

import typer


def expand(
    model: Annotated[str, typer.Argument(help="A folder, a GGUF file, a hub id, or a name with a scheme (pypi:…).")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must be new or empty.")],
    num_expand: Annotated[
        int, typer.Option("--num-expand", "--num_expand", min=1, help="Blocks to add; must divide the layers.")
    ],
) -> None:
    """Add blocks to a model that at first change nothing, to be trained with use_llama_pro: true."""
    from ft_plugins.commands._llama_pro import expand_model, find_model

    layers = expand_model(find_model(model), out, num_expand)
    typer.echo(f"{out}: {layers} layers, of which {num_expand} are new; they change no logit until they are trained")
    typer.echo(
        f"train them with finetuning_type: freeze, use_llama_pro: true and freeze_trainable_layers: {num_expand}"
    )
