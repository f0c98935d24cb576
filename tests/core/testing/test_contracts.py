"""The contract classes are all there under the one name that plugin authors import."""

from pathlib import Path

import pytest

from ft.testing import contracts

FOLDER = Path(contracts.__file__).parent


def test_every_module_of_the_folder_has_its_class() -> None:
    assert sorted(contracts.CLASSES.values()) == sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
    assert {*contracts.CLASSES, "CLASSES"} == set(contracts.__all__)


@pytest.mark.parametrize("name", contracts.CLASSES)
def test_a_class_is_imported_by_its_name(name: str) -> None:
    assert getattr(contracts, name).__name__ == name
