"""A number for each token: the head of reward models and of critics.

It is a submodule ``v_head`` of the model, so that DDP, optimizers and checkpoints see it, and a file of its own beside
the model's, as LLaMA-Factory writes it: the model's own files stay what transformers and peft load.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ft.errors import DataError, first_line
from ft.files import VALUE_HEAD
from ft.training.capability import unwrap
from ft.training.head import replaced_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME: Final = "v_head"


class ValueHead(nn.Module):
    """A linear map from hidden states to a number, in fp32 whatever the model's dtype.

    Weights begin as N(0, 1 / (hidden_size + 1)), as in Stiennon et al. 2020 (arXiv:2009.01325), the bias as 0.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.summary = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.normal_(self.summary.weight, std=(hidden_size + 1) ** -0.5)
        nn.init.zeros_(self.summary.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, hidden_size) → values (…)."""
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.summary(hidden.to(self.summary.weight.dtype))
        return values[..., 0]


def value_head(model: nn.Module) -> ValueHead | None:
    """The value head of a model, perhaps inside PEFT; ``None`` without one."""
    return cast("ValueHead | None", getattr(unwrap(model), NAME, None))


def attach_value_head(model: nn.Module, *, scores_only: bool = False) -> ValueHead:
    """Give a model a value head that trains, or find the one that it has.

    Args:
        model: a causal language model of transformers, perhaps inside PEFT.
        scores_only: nothing else will be asked of the model: its language-model head stops training, since DDP waits
            for a gradient of everything that trains. One that is tied to the embeddings goes on.
    """
    base: Any = unwrap(model)
    language_head = base.get_output_embeddings()
    if value_head(model) is None:
        base.add_module(NAME, _fitting(model).train(base.training))
        base._keys_to_ignore_on_save = {*(base._keys_to_ignore_on_save or ()), *_tensors(base.v_head)}
    if scores_only and language_head.weight is not base.get_input_embeddings().weight:
        language_head.requires_grad_(False)
    return cast("ValueHead", base.v_head)


def save_value_head(model: nn.Module, folder: Path | str) -> bool:
    """Write ``value_head.safetensors`` if the model has a value head; whether it has."""
    head = value_head(model)
    if head is not None:
        save_file(_tensors(head), Path(folder) / VALUE_HEAD, metadata={"format": "pt"})
    return head is not None


def load_value_head(model: nn.Module, folder: Path | str) -> ValueHead:
    """The value head of a folder, attached to the model; raises as :func:`read_value_head`."""
    head = attach_value_head(model)
    head.load_state_dict(read_value_head(model, folder).state_dict())
    return head


def read_value_head(model: nn.Module, folder: Path | str) -> ValueHead:
    """The value head of a folder for this model, on its device, frozen and not attached: that of a second adapter.

    Raises:
        DataError: there is none, or it belongs to a model of another size.
    """
    head, path = _fitting(model), Path(folder) / VALUE_HEAD
    try:
        head.load_state_dict({name.removeprefix(f"{NAME}."): values for name, values in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            "the value head cannot be loaded",
            where=str(path),
            why=f"it must hold {', '.join(_tensors(head))} of this model's size: {first_line(error)}",
            remedy="give the folder of a reward model of the same base; stage: rm writes one",
        ) from error
    return head.requires_grad_(False).eval()


def _fitting(model: nn.Module) -> ValueHead:
    language_head = unwrap(model).get_output_embeddings()  # type: ignore[operator]  # a PreTrainedModel
    return ValueHead(language_head.in_features).to(next(language_head.parameters()).device)


def _tensors(head: nn.Module) -> dict[str, Tensor]:
    return {f"{NAME}.{name}": values.detach().contiguous() for name, values in head.state_dict().items()}


@contextmanager
def instead_of_logits(
    model: nn.Module, compute: Callable[[Tensor, Tensor], Tensor], *, with_logits: bool
) -> Iterator[None]:
    """While open, the model's ``logits`` are ``compute(hidden, logits)``, for a model whose logits are not its head's.

    It is computed inside the model's own forward, where DDP expects to find what trains. ``hidden`` are the states
    before the head, (S, N, h); without ``with_logits`` the head is left out and ``logits`` mean nothing.
    """
    base: Any = unwrap(model)
    head = base.get_output_embeddings()
    own, own_head, seen = base.forward, head.forward, []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return own_head(hidden) if with_logits else hidden[..., :1]

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = own(*args, **kwargs)
        outputs.logits = compute(seen.pop(), outputs.logits)
        return outputs

    with replaced_forward(head, keep), replaced_forward(base, forward):
        yield
