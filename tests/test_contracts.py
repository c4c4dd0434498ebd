"""What holds of the tree as a whole: who may import whom, what batches carry, what the files say of each other."""

import dataclasses
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cryoloom
from cryoloom.particles.batches import ParticleBatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cryoloom"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
SEES_THE_TRUTH = {"evaluation", "simulation", "report", "api", "cli"}


def rooms() -> set[str]:
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def tracked_texts() -> list[tuple[str, str]]:
    """Names and texts of the files under version control."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content:
            found.append((name, content.decode()))
    return found


def test_layers_and_the_truth_are_kept_apart():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(CONTRACTS)} kept" in result.stdout


def test_the_contracts_cover_every_room():
    """A room that a contract does not name is one that it does not check."""
    layers = next(c for c in CONTRACTS if c["type"] == "layers")["layers"]
    assert {name.strip().removeprefix("cryoloom.") for layer in layers for name in layer.split("|")} == rooms()
    truth = next(c for c in CONTRACTS if "cryoloom.evaluation" in c.get("forbidden_modules", ()))
    assert set(truth["forbidden_modules"]) == {"cryoloom.evaluation", "cryoloom.simulation"}
    assert {name.removeprefix("cryoloom.") for name in truth["source_modules"]} == rooms() - SEES_THE_TRUTH


def test_batches_have_no_field_for_poses():
    assert {field.name for field in dataclasses.fields(ParticleBatch)} == {"rows", "observed", "ctf", "group"}


def test_architecture_draws_every_module():
    drawn = set(re.findall(r"^([\w/]+\.py) ", (ROOT / "ARCHITECTURE.md").read_text(), re.M))
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert modules - drawn == set(), "modules that ARCHITECTURE.md does not name"
    assert drawn - modules == set(), "modules that ARCHITECTURE.md names and that are not there"


def test_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cryoloom.__version__
    assert f"version: {cryoloom.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {cryoloom.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    folders = re.compile(r"(?<![\w.}/-])/(?:work|root|home|Users|mnt|opt|scratch)/\w+")
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_texts()
        if name != Path(__file__).relative_to(ROOT).as_posix()
        for match in folders.finditer(text)
    ]
    assert found == []


def test_locked_packages_come_from_pypi():
    hosts = set(re.findall(r"\w+://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_pictures_and_pages_that_are_linked_exist():
    for page in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_constants_in_the_method_are_those_of_the_code():
    rows = re.findall(
        r"^\| `([\w.]+)\.([A-Z_]+)` \| ([\d.]+) \|$", (ROOT / "docs" / "methods" / "verdict.md").read_text(), re.M
    )
    assert len(rows) > 10
    for module, name, value in rows:
        assert getattr(importlib.import_module(f"cryoloom.{module}"), name) == float(value), f"{module}.{name}"
