"""The contract between ft and its plugins: hook signatures and the typed records they pass.

Light by design: importing it costs no torch, no transformers and nothing of ft itself.

A plugin is a module (or any object) with functions marked ``@hookimpl`` whose names and parameters stand in
:mod:`ft_hookspecs.specs`, published through an entry point in the group of its kind (``ft.stages``, ``ft.adapters`` …).
"""

from ft_hookspecs.data import DatasetSource, Example, FormatReader, Message, Role, Row, Template, ToolSpec
from ft_hookspecs.markers import API_VERSION, PROJECT_NAME, hookimpl, hookspec
from ft_hookspecs.memory import Checkpointing, Estimate, ModelShape
from ft_hookspecs.options import PluginOptions
from ft_hookspecs.plan import KINDS, Note, Plan, PluginInfo, Problem, Selection, Source
from ft_hookspecs.run import Change, DataCounts, ModelFiles, OtherModel, Run, Stash, StashKey

__all__ = [
    "API_VERSION",
    "KINDS",
    "PROJECT_NAME",
    "Change",
    "Checkpointing",
    "DataCounts",
    "DatasetSource",
    "Estimate",
    "Example",
    "FormatReader",
    "Message",
    "ModelFiles",
    "ModelShape",
    "Note",
    "OtherModel",
    "Plan",
    "PluginInfo",
    "PluginOptions",
    "Problem",
    "Role",
    "Row",
    "Run",
    "Selection",
    "Source",
    "Stash",
    "StashKey",
    "Template",
    "ToolSpec",
    "hookimpl",
    "hookspec",
]
