"""The two markers of the contract and its version."""

from typing import Final

import pluggy

PROJECT_NAME: Final = "ft"

API_VERSION: Final = 1
"""Raised when a hook changes in a way that an existing plugin would notice.

A plugin may state the version it was written for as a module attribute ``ft_api_version = 1``; one that states another
version is refused before anything is loaded.
"""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)
