"""Samples of one conversation, for the tests of what is learned and what is cut."""

from ft.data import Supervision, Supervisor
from ft_hookspecs import DataCounts


def supervise(example, template, tokenizer, *, cutoff_len, counts=None, **options):
    supervision = Supervision(cutoff_len, **options)
    return list(Supervisor(template, tokenizer, supervision)([example], counts or DataCounts()))
