"""Discovery: find → select → load → verify → call with blame.

::

    find_plugins()   reads metadata only, imports nothing            finding
    select(…)        which plugins do the wishes name?               selection, exclusion
    manager.load(…)  imports the selected ones, and no other         loading
                     hooks and parameters must stand in the specs    verification
    manager.hook.…   calls in order of selection; what goes wrong    implementation, blame, results
                     names plugin, hook, distribution and version
"""

from ft.plugins.exclusion import Exclusion, disabled_plugins, exclusions
from ft.plugins.finding import Broken, Found, find_plugins
from ft.plugins.manager import PluginManager
from ft.plugins.selection import Candidates, candidates, select
from ft.plugins.selectors import Selector, find_selectors

__all__ = [
    "Broken",
    "Candidates",
    "Exclusion",
    "Found",
    "PluginManager",
    "Selector",
    "candidates",
    "disabled_plugins",
    "exclusions",
    "find_plugins",
    "find_selectors",
    "select",
]
