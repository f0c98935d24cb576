"""What every stage must do: learn, survive SIGKILL bit for bit, and not care how a step is cut up."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ft.testing.runs import Outcome, Runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    Train = Callable[..., Outcome]

COLOURS = ("red", "blue", "green", "grey", "black", "white", "pink", "brown")
CHATS = tuple(
    {"instruction": f"What is the colour of stone {name}?", "output": f"Stone {name} is {colour}."}
    for name, colour in zip("abcdefgh", COLOURS, strict=True)
)
"""Eight questions with their answers, in the shape of alpaca."""

CUTS: Mapping[str, Mapping[str, Any]] = {
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    "padded": {"attention": "padded"},
}
"""Ways to compute the same step of two rows."""


def same(losses: Mapping[int, float]) -> Any:
    """What equals these losses to rounding, in bf16 too."""
    return pytest.approx(losses, rel=1e-3, abs=1e-5)


class StageContract:
    """Subclass it and set ``plugin``; ``rows`` are what it learns from and ``keys`` what a user would write."""

    plugin: ClassVar[str]
    """A name, ``package.module`` or the path of a file, as for ``stage``."""
    rows: ClassVar[Sequence[Mapping[str, Any]]] = CHATS
    """Of the data set, unless ``keys`` name one."""
    keys: ClassVar[Mapping[str, Any]] = {}
    tuning: ClassVar[Mapping[str, Any]] = {"finetuning_type": "lora", "lora_rank": 4}
    steps: ClassVar[int] = 6
    metric: ClassVar[str] = "loss"
    """What shows that it learns."""
    falls: ClassVar[bool] = True
    """Whether ``metric`` falls when it learns; else it rises."""

    @pytest.fixture(scope="class")
    @classmethod
    def train(cls, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
        """Carries out the run with further keys, in a folder by name; the rest is for :class:`ft.testing.Runs`."""
        folder = tmp_path_factory.mktemp("stage")
        data = folder / "rows.json"
        data.write_text(json.dumps(list(cls.rows)), encoding="utf-8")
        usual = {
            "model_name_or_path": tiny_model_dir,
            "cache_dir": folder / "cache",
            "dataset": data,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "max_steps": cls.steps,
            "logging_steps": 1,
            "save_steps": 2,
            "use_cpu": True,
        }
        runs = Runs({**usual, "stage": cls.plugin, **cls.tuning, **cls.keys})

        def train(name: str, *, kill_after: int | None = None, processes: int = 1, **more: Any) -> Outcome:
            return runs({**more, "output_dir": folder / name}, kill_after=kill_after, processes=processes)

        return train

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, train: Train) -> Outcome:
        """The run as it is, which the others are compared with."""
        done = train("whole")
        assert done.exits == (0,), done.output
        return done

    def test_it_learns(self, whole: Outcome) -> None:
        curve = list(whole.series(self.metric).values())
        assert len(curve) == self.steps, whole.output
        assert (curve[-1] < curve[0]) is self.falls, curve

    def test_killed_and_resumed_it_is_bit_identical(self, train: Train, whole: Outcome) -> None:
        import torch

        killed = train("killed", kill_after=self.steps - 1)
        assert killed.exits == (-signal.SIGKILL,), killed.output
        resumed = train("killed", resume_from_checkpoint=True)
        assert resumed.exits == (0,), resumed.output
        assert resumed.series("loss") == whole.series("loss")
        tensors, others = whole.tensors(), resumed.tensors()
        assert tensors.keys() == others.keys() != set()
        assert [name for name, tensor in others.items() if not torch.equal(tensor, tensors[name])] == []

    @pytest.mark.parametrize("cut", CUTS)
    def test_how_a_step_is_cut_up_does_not_change_it(self, train: Train, whole: Outcome, cut: str) -> None:
        other = train(cut, **CUTS[cut])
        assert other.series("loss") == same(whole.series("loss")), other.output

    def test_two_processes_equal_one(self, train: Train, whole: Outcome) -> None:
        two = train("two", processes=2, per_device_train_batch_size=1)
        assert two.exits == (0, 0), two.output
        assert two.series("loss") == same(whole.series("loss"))
