"""Fixtures of the command line: `ft` in this process, over a planning that tests choose."""

import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft_hookspecs import Plan, Source


@pytest.fixture
def ft():
    """Run `ft` with words; the result has ``exit_code``, ``stdout`` and ``stderr``."""
    return lambda *words: CliRunner().invoke(app, list(words), prog_name="ft")


@pytest.fixture
def planning(monkeypatch):
    """A planning and a lifecycle that note what they are asked, and give or raise ``outcome``."""
    fake = SimpleNamespace(asked=[], ran=[], outcome=(a_plan(), object()))

    def make_plan(*arguments):
        fake.asked.append(arguments)
        if isinstance(fake.outcome, BaseException):
            raise fake.outcome
        return fake.outcome

    monkeypatch.setitem(sys.modules, "ft.planning", SimpleNamespace(make_plan=make_plan, schema=make_plan))
    monkeypatch.setitem(sys.modules, "ft.lifecycle", SimpleNamespace(run=lambda *given: fake.ran.append(given)))
    return fake


def a_plan(values=None, sources=None, **more):
    values = {"lora_rank": 16} if values is None else values
    sources = {key: Source("library default", "default of ft") for key in values} | (sources or {})
    settings = {"plugins": (), "models": (), "output_dir": None, **more}
    return Plan(values=values, sources=sources, **settings)


@pytest.fixture
def make_plan_record():
    return a_plan
