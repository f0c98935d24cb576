"""What a run says while it goes on: its own lines, and not those of the libraries below it."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Final

import typer

CHATTY: Final = "bitsandbytes.backends.cpu.ops"
"""Logger that misses a kernel, for an evaluation that ft never does, wherever transformers or peft are imported and
bitsandbytes is installed."""


def tell(line: str) -> None:
    """Show a line, once: of several processes the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(line)


def quiet_libraries() -> None:
    """Progress bars of loading, and deprecations among the libraries themselves, say nothing to a user of ft.

    ``TRANSFORMERS_VERBOSITY`` and ``PYTHONWARNINGS`` still turn them on.
    """
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b")
    logging.getLogger(CHATTY).setLevel(logging.ERROR)
    from transformers.utils import logging as theirs

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
