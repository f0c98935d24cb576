"""The commands of ``ft``: their arguments and help. What a command does is in the module that it imports."""

from typing import Annotated

import typer

import ft
from ft.cli.commands import WithPlugins
from ft.cli.guard import guarded

app = typer.Typer(
    cls=WithPlugins,
    help="Fine-tune language models. Everything with a name (stage, adapter, logger …) is a plugin.",
    epilog="Exit codes: 0 done, 2 configuration, 3 plugin, 4 data, 5 environment, 6 training, 130/143 stopped.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would triple the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plugins_app = typer.Typer(
    help="List installed plugins; show or check one.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(plugins_app, name="plugins")
data_app = typer.Typer(
    help="Check data sets, or show what becomes of rows.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")

# Keys are checked against the options of the selected plugins, which typer cannot know: unknown flags pass through.
ANY_KEY = {"ignore_unknown_options": True, "allow_extra_args": True}


def _plugin_names(incomplete: str) -> list[str]:
    """Shell completion; reads metadata only."""
    from ft.plugins import find_plugins

    return sorted({info.name for info in find_plugins() if info.name.startswith(incomplete)})


def _kinds(incomplete: str) -> list[str]:
    from ft_hookspecs import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE|--KEY VALUE",
        help="A YAML or JSON file, and keys that override it.",
        show_default=False,
    ),
]
DataWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|FILE|KEY=VALUE|--KEY VALUE",
        help="A configuration, or data files and folders, and keys that override it.",
        show_default=False,
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="NAME[,NAME]",
        help="Add plugins: a name, kind:name, package.module or a .py file.",
        autocompletion=_plugin_names,
    ),
]
NoPlugin = Annotated[
    list[str] | None,
    typer.Option(
        "--no-plugin", "--no_plugin", metavar="NAME[,NAME]", help="Take plugins out.", autocompletion=_plugin_names
    ),
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the full traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ft {ft.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Typer wants a function to hang the options of `ft` itself on."""


@app.command(context_settings=ANY_KEY, no_args_is_help=True)
@guarded
def run(words: Words = None, plugin: Plugin = None, no_plugin: NoPlugin = None, _traceback: Traceback = False) -> None:
    """Train: check the whole configuration, then carry it out."""
    from ft.cli.compose import plan_of

    plan, manager = plan_of(words, plugin, no_plugin)
    from ft.cli.output import quiet_libraries, tell
    from ft.lifecycle import run as run_plan

    quiet_libraries()
    run_plan(plan, manager, tell)


@app.command(context_settings=ANY_KEY, no_args_is_help=True)
@guarded
def plan(
    words: Words = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    every: Annotated[bool, typer.Option("--all", help="Show defaults too.")] = False,
    as_json: Json = False,
    _traceback: Traceback = False,
) -> None:
    """Show what `ft run` would do and where each value comes from; loads no model."""
    from ft.cli.compose import plan_of
    from ft.cli.plan import show

    show(*plan_of(words, plugin, no_plugin), every=every, as_json=as_json)


@app.command(no_args_is_help=True)
@guarded
def score(
    model: Annotated[str, typer.Argument(help="The output_dir of a run with stage: rm, or with --adapter its base.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE|-] [KEY=VALUE]…", help="JSON lines to score; - is standard input."),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder of the adapter with the value head.")] = None,
    prompt: Annotated[str | None, typer.Option(help="One question.")] = None,
    answer: Annotated[str | None, typer.Option(help="The answer to score.")] = None,
    plugin: Plugin = None,
    _traceback: Traceback = False,
) -> None:
    """Score answers with a saved reward model; prints JSON lines."""
    from ft.cli.compose import split_names
    from ft.cli.output import quiet_libraries
    from ft.cli.score import score as print_scores

    quiet_libraries()
    print_scores(model, words or (), adapter, prompt, answer, split_names(plugin))


@app.command(context_settings=ANY_KEY)
@guarded
def schema(
    words: Words = None, plugin: Plugin = None, no_plugin: NoPlugin = None, _traceback: Traceback = False
) -> None:
    """Print the JSON Schema of the chosen composition, for editors."""
    from ft.cli.compose import schema_of
    from ft.cli.text import echo_json

    echo_json(schema_of(words, plugin, no_plugin))


@data_app.command(context_settings=ANY_KEY, no_args_is_help=True)
@guarded
def check(
    words: DataWords = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    every: Annotated[bool, typer.Option("--all", help="Show every bad row, not the first few of a kind.")] = False,
    as_json: Json = False,
    _traceback: Traceback = False,
) -> None:
    """Read every row and report all that is wrong, and what the stage would drop or cut. Exits with 4 for bad data."""
    from ft.cli.data_check import show

    raise typer.Exit(show(words or (), plugin, no_plugin, every=every, as_json=as_json))


@data_app.command(context_settings=ANY_KEY, no_args_is_help=True)
@guarded
def preview(
    words: DataWords = None,
    plugin: Plugin = None,
    no_plugin: NoPlugin = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows of each split.")] = 3,
    as_json: Json = False,
    _traceback: Traceback = False,
) -> None:
    """Show the first rows as the stage's tokens, with those that are learned in colour, or in brackets without it."""
    from ft.cli.data_preview import show

    show(words or (), plugin, no_plugin, size=rows, as_json=as_json)


@plugins_app.command("list")
@guarded
def list_plugins(
    kind: Annotated[str, typer.Option("--kind", help="Only this kind.", autocompletion=_kinds)] = "",
    as_json: Json = False,
) -> None:
    """Every installed plugin; imports none of them."""
    from ft.cli.plugins import show_all

    show_all(kind, as_json=as_json)


@plugins_app.command("show")
@guarded
def show_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name or kind:name", autocompletion=_plugin_names)],
    as_json: Json = False,
    _traceback: Traceback = False,
) -> None:
    """Where one plugin comes from, its hooks and its options; imports that one alone."""
    from ft.cli.plugins import show_one

    show_one(name, as_json=as_json)


@plugins_app.command("check", context_settings=ANY_KEY)
@guarded
def check_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As for --plugin: a name, kind:name, package.module or a .py file.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Keys that it needs; attributes of the contract."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="Of a plugin that is a module or a file.", autocompletion=_kinds)
    ] = "",
    _traceback: Traceback = False,
) -> None:
    """Put a plugin to the contract of its kind, by pytest, on a tiny model. Exits with 3 when it does not pass."""
    from ft.cli.plugin_check import check

    raise typer.Exit(check(name, kind, words or ()))


@app.command()
@guarded
def doctor(as_json: Json = False) -> None:
    """Check this installation: each finding with its remedy. Exits with 5 when something is broken."""
    from ft.cli.doctor import show

    raise typer.Exit(show(as_json=as_json))


@app.command()
@guarded
def version(as_json: Json = False) -> None:
    """The version of ft; with --json also of Python and of the packages ft stands on."""
    from ft.cli.text import echo_json

    if as_json:
        from ft.record import versions

        echo_json(dict(versions()))
    else:
        typer.echo(f"ft {ft.__version__}")
