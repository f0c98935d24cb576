"""Rows of data sets on the Hugging Face hub, through ``datasets``; code that comes with a data set is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft.errors import DataError, EnvironmentProblem, first_line
from ft_hookspecs import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import DatasetSource


def read_hub(source: DatasetSource, token: str | None) -> Iterator[Row]:
    """The rows of one split; ``where`` is ``owner/name split row N``.

    Raises:
        DataError: no such data set, subset or split.
        EnvironmentProblem: the hub cannot be reached and the data set is not in its cache.
    """
    import datasets

    try:
        rows = datasets.load_dataset(
            source.location, name=source.subset, data_dir=source.folder, split=source.split, token=token
        )
    except (datasets.exceptions.DatasetNotFoundError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the data set {source.name!r} cannot be loaded",
            where=source.declared_at or source.location,
            why=first_line(error),
            remedy="check the id, subset and split; a data set with a script must be exported to parquet first",
        ) from error
    except Exception as error:  # what a failed connection raises depends on the versions of three libraries
        raise EnvironmentProblem(
            f"the data set {source.name!r} is no file here, and the Hugging Face hub cannot be reached",
            where=source.location,
            why=first_line(error),
            remedy="connect, or download the data set and give its path as dataset",
        ) from error
    for number, row in enumerate(rows, 1):
        yield Row(row, f"{source.location} {source.split} row {number}")
