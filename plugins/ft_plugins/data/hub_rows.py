"""Rows of data sets on the Hugging Face hub, through ``datasets``; code that comes with a data set is never run."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.errors import DataError, EnvironmentProblem, first_line
from ft_hookspecs import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ft_hookspecs import DatasetSource


@dataclass(frozen=True)
class HubRows:
    """The rows of one split; ``where`` is ``owner/name split row N``. ``streaming`` downloads them as they are read."""

    source: DatasetSource
    token: str | None
    streaming: bool = False

    def __iter__(self) -> Iterator[Row]:
        return self.after(0)

    def after(self, begin: int) -> Iterator[Row]:
        """Without the first ``begin`` rows.

        Raises:
            DataError: no such data set, subset or split, or one whose files are broken.
            EnvironmentProblem: the hub cannot be reached and the data set is not in its cache.
        """
        with _told(self.source):
            rows = load(self.source, self.token, streaming=self.streaming).skip(begin)
            for number, row in enumerate(rows, begin + 1):
                yield Row(row, f"{self.source.location} {self.source.split} row {number}")


def load(source: DatasetSource, token: str | None, *, streaming: bool) -> Any:
    """The data set as ``datasets`` has it."""
    import datasets

    return datasets.load_dataset(
        source.location,
        name=source.subset,
        data_dir=source.folder,
        split=source.split,
        token=token,
        streaming=streaming,
    )


@contextmanager
def _told(source: DatasetSource) -> Iterator[None]:
    """What goes wrong with a data set, at once or while a stream of it is read."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the data set {source.name!r} cannot be loaded",
            where=source.declared_at or source.location,
            why=first_line(error),
            remedy="check the id, subset and split; a data set with a script must be exported to parquet first",
        ) from error
    except Exception as error:  # what a failed connection raises depends on the versions of three libraries
        raise EnvironmentProblem(
            f"the data set {source.name!r} is not a file here, and the Hugging Face hub cannot be reached",
            where=source.location,
            why=first_line(error),
            remedy="connect, or download the data set and give its path as dataset",
        ) from error
