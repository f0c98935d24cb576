"""Models in one GGUF file, or in a folder that holds exactly one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ft.errors import ConfigError
from ft.options import ModelOptions, cache_folder
from ft_hookspecs import ModelFiles, hookimpl
from ft_plugins.models._convert import convert_gguf

if TYPE_CHECKING:
    from ft_hookspecs import Plan


@hookimpl
def ft_resolve_model(plan: Plan, name: str) -> ModelFiles | None:
    """The converted folder of a GGUF file.

    Raises:
        ConfigError: a folder with several GGUF files.
        DataError: the file cannot be converted.
    """
    file = find_gguf(Path(name).expanduser())
    if file is None:
        return None
    folder = convert_gguf(file.resolve(), cache_folder(plan.of(ModelOptions).cache_dir))
    return ModelFiles(str(folder.resolve()), description=f"{file.name}, dequantised once")


@hookimpl
def ft_locate_model(name: str) -> Path | None:
    return find_gguf(Path(name).expanduser())


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that ``path`` means, or ``None``.

    Raises:
        ConfigError: it could mean several.
    """
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ConfigError(
            f"the folder {path} holds {len(files)} GGUF files", why=names, remedy=f"give one of them: {files[0]}"
        )
    return files[0] if files else None
