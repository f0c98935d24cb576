"""What a run says while it goes on: its own lines, and not those of the libraries below it."""

from __future__ import annotations

import os
import warnings

import typer


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
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
