"""The reward model of a run: a server, a second adapter on the policy, or a model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.errors import ConfigError
from ft.files import VALUE_HEAD
from ft.options import ModelOptions
from ft_plugins import _saved_adapters
from ft_plugins.stages._rewards.api import RewardServer
from ft_plugins.stages._rewards.checks import base_problems
from ft_plugins.stages._rewards.options import RewardOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ft_hookspecs import Run

    Judge = Callable[[list[str]], Sequence[float]]
    Score = Callable[[list[str], list[str]], Sequence[float]]


def reward_model_for(run: Run) -> Score | None:
    """A function of prompts and answers; ``None`` when the run has no reward model.

    Raises:
        ConfigError: the policy's base is not the one that the reward adapter was trained on.
        DataError: the folder holds no reward model, or one that does not fit.
    """
    from ft.training.scoring import end_of_answer

    options = run.plan.of(RewardOptions)
    if options.reward_model is None:
        return None
    assert run.template is not None
    judge, end = JUDGES[options.reward_model_type](run, options), end_of_answer(run.template)

    def score(prompts: list[str], answers: list[str]) -> Sequence[float]:
        return judge([f"{prompt}{answer}{end}" for prompt, answer in zip(prompts, answers, strict=True)])

    return score


def server(_: Run, options: RewardOptions) -> Judge:
    """``reward_model_type: api``."""
    return RewardServer(options.reward_model or "", options.reward_model_token)


def second_adapter(run: Run, options: RewardOptions) -> Judge:
    """``reward_model_type: lora``: the adapter stands in the policy's place only while it scores."""
    from ft.training import read_value_head
    from ft.training.scoring import Scorer
    from ft_plugins.stages._rewards.swap import SecondAdapter

    policy: Any = run.model
    folder = head_folder(run, options)
    check_base(run, folder)
    second = SecondAdapter(policy, folder)
    with second.in_place() as model:
        head, attention = read_value_head(model, folder), run.plan.get("attention", "auto")
        scorer = Scorer(model, head, run.tokenizer, attention, tell_cuts=run.decide)

    def judge(texts: list[str]) -> Sequence[float]:
        with second.in_place():
            scores: list[float] = scorer(texts).tolist()
        return scores

    return judge


def other_model(run: Run, options: RewardOptions) -> Judge:
    """``reward_model_type: full``: a model of its own, which reads the same texts with its own tokenizer."""
    from ft.training import read_value_head
    from ft.training.scoring import Scorer

    assert run.model is not None
    policy: Any = run.model
    model, tokenizer = run.load_other(
        options.reward_model or "", options.reward_model_adapters, options.reward_model_quantization_bit
    )
    head = read_value_head(model, head_folder(run, options))
    scorer = Scorer(model, head, tokenizer, run.plan.get("attention", "auto"), tell_cuts=run.decide)
    if tokenizer.chat_template != getattr(run.template, "text", tokenizer.chat_template):
        run.decide("the reward model has another chat template; it reads prompts as the policy's template writes them")

    def judge(texts: list[str]) -> Sequence[float]:
        scorer.to(policy.device)  # where the trainer has put the policy
        scores: list[float] = scorer(texts).tolist()
        return scores

    return judge


def head_folder(run: Run, options: RewardOptions) -> Path:
    """Where the value head lies: with the (last) adapter, else with the model."""
    name = options.reward_model or ""
    if options.reward_model_type == "lora":
        return _saved_adapters.folder_of(name, run.plan, "reward_model")
    if options.reward_model_adapters:
        return _saved_adapters.folder_of(
            options.reward_model_adapters.split(",")[-1].strip(), run.plan, "reward_model_adapters"
        )
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from ft_plugins.models._hub import download

    return download(name, "main", run.plan.of(ModelOptions).hf_hub_token, (VALUE_HEAD,))


def check_base(run: Run, folder: Path) -> None:
    """Refuse a second adapter of another base, of the hub too; a folder was looked into while planning.

    Raises:
        ConfigError: the policy has other adapters merged into its base than the reward model had.
    """
    where = str(run.plan.sources.get("reward_model", ""))
    for problem in base_problems(run.plan, folder):
        raise ConfigError(problem.what, where=where, why=problem.why, remedy=problem.remedy)
    base = _saved_adapters.check_adapter(folder, "")["base_model_name_or_path"]
    if run.model_files is not None and base != run.model_files.path:
        run.decide(f"the reward adapter names another base ({base}); it scores on the policy's, as its weights fit it")


JUDGES = {"api": server, "full": other_model, "lora": second_adapter}
