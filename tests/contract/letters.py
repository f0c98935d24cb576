"""A reward for the contract's table: the share of letters in an answer."""

from ft_hookspecs import hookimpl

ft_api_version = 1


@hookimpl
def ft_reward(answers):
    return [sum(map(str.isalpha, answer)) / max(1, len(answer)) for answer in answers]
