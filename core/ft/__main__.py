"""The command ``ft``, also as ``python -m ft``."""


def main() -> None:
    """Run the command line; ends the process with one of the exit codes of :mod:`ft.errors`."""
    from ft.cli import app

    app(prog_name="ft")


if __name__ == "__main__":
    main()
