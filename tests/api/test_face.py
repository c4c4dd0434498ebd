"""`import cryoloom as cl`: what it names, and what it does not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cryoloom as cl

HEAVY = {"torch", "numpy", "scipy", "pandas", "numba", "sklearn", "gemmi", "mrcfile", "rich", "typer"}


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after some code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loads_no_heavy_library():
    loaded = loaded_after("import cryoloom\ndir(cryoloom)\ncryoloom.__version__")
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("cryoloom.")} == set()


def test_environment_is_prepared_before_the_first_numerical_library():
    code = (
        "import os\n"
        "for name in ('OMP_WAIT_POLICY', 'NUMBA_CACHE_DIR'): os.environ.pop(name, None)\n"
        "class Watch:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': assert {'OMP_WAIT_POLICY', 'NUMBA_CACHE_DIR'} <= set(os.environ)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import cryoloom\n"
        "cryoloom.read_map\n"
    )
    assert "torch" in loaded_after(code)


def test_dir_lists_every_name_and_every_name_loads():
    assert set(cl.__all__) == set(cl._FACE)
    assert set(cl.__all__) <= set(dir(cl))
    for name in cl.__all__:
        value = getattr(cl, name)
        assert value.__doc__, name


def test_names_for_type_checkers_are_those_that_load():
    tree = ast.parse(Path(cl.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert declared.pop("recipes") == "cryoloom"  # a room
    assert declared == {name: module for name, module in cl._FACE.items() if name != "recipes"}


def test_every_recipe_and_its_settings_load():
    assert set(cl.recipes.__all__) == set(cl.recipes._MODULES) <= set(dir(cl.recipes))
    for name in cl.recipes.__all__:
        assert getattr(cl.recipes, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Recipe'"):
        cl.recipes.Recipe  # type: ignore[attr-defined]  # noqa: B018


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        cl.reconstuct  # type: ignore[attr-defined]  # noqa: B018
