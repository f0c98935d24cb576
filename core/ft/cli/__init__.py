"""The command line: what users type, and what they see when something is wrong.

Importing it must stay cheap (``ft --help`` runs it on every call): a command imports what it needs when it is called.
"""

from ft.cli.app import app

__all__ = ["app"]
