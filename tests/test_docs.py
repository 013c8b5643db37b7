"""The site's pages: every public name has a place and an example; recipes and lists agree with pyproject."""

import importlib
import inspect
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

import jaxreg
from docs import __main__ as build

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = {page.name: page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md"))}
LISTED = re.compile(r"auto(?:function|class|data):: ([\w.]+)")
# Modules whose names a user imports from there, and where these names are written.
PUBLIC = {name: f"jaxreg.{name}" for name in "calibration distributions metrics plots isotonic".split()}
PUBLIC["importance"] = "jaxreg.importance", "jaxreg.metrics.columns"
# For those who add a family, a metric or a picture.
INSIDE = "check_shares fill_rows check_prediction literal strongest quietly".split()


def names():
    """Public names, each with the place it's documented at."""
    found = {f"jaxreg.{name}" for name in jaxreg.__all__}
    for module, homes in PUBLIC.items():
        for name, value in vars(importlib.import_module(f"jaxreg.{module}")).items():
            written_there = getattr(value, "__module__", "").startswith(homes)
            if (
                callable(value)
                and written_there
                and name[0] != "_"
                and name not in [*jaxreg.__all__, *INSIDE]
            ):
                found.add(f"jaxreg.{module}.{name}")
    return sorted(found)


@pytest.mark.parametrize("name", names())
def test_a_public_name_is_in_the_reference_with_an_example(name):
    pages = [text for text in REFERENCE.values() if name in LISTED.findall(text)]
    assert len(pages) == 1, f"{name} has a place on {len(pages)} pages of docs/reference"
    module, _, last = name.rpartition(".")
    value = getattr(importlib.import_module(module), last)
    blocks = "".join(re.findall(r"^```python\n(.*?)^```", pages[0], re.DOTALL | re.MULTILINE))
    own = inspect.getdoc(value) or ""
    members = [inspect.getdoc(each) or "" for each in vars(value).values()] if inspect.isclass(value) else []
    assert any(">>>" in text for text in (own, *members)) or re.search(rf"\b{last}\b", blocks)


def test_what_the_reference_lists_is_there():
    for text in REFERENCE.values():
        for name in LISTED.findall(text):
            module, _, last = name.rpartition(".")
            assert hasattr(importlib.import_module(module), last), name


def test_the_first_page_lists_every_page():
    pages = {
        str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").glob("[!mb]*/*.md")
    }
    pages |= {f"benchmarks/{page.stem}" for page in (ROOT / "docs/benchmarks").glob("*.md")}
    trees = re.findall(r"```{toctree}\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.DOTALL)
    listed = re.findall(r"^(?!made)(\w+/\w+)$", "".join(trees), re.MULTILINE)
    assert sorted(listed) == sorted(pages)


def project():
    """What pyproject says of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_recipe_asks_for_what_pyproject_asks_for():
    extras = project()["optional-dependencies"]
    wanted = {*project()["dependencies"], *extras["tables"]}
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())
    other = {"flatbuffers": "python-flatbuffers", "matplotlib": "matplotlib-base"}
    told = {re.sub(r"[a-z-]+", lambda name: other.get(name[0], name[0]), each, count=1) for each in wanted}
    run = {each.replace(" ", "") for each in recipe["requirements"]["run"] if not each.startswith("python >")}
    assert run == told
    assert recipe["context"]["version"] == jaxreg.__version__


def test_the_build_says_what_is_missing(monkeypatch, capsys):
    def installed(name):
        if name in ("furo", "sphinx", "onnx"):
            raise PackageNotFoundError(name)

    monkeypatch.setattr(build, "distribution", installed)
    monkeypatch.setattr(sys, "argv", ["docs"])
    assert build.main() == 2
    said = capsys.readouterr().err
    assert "the build needs onnx, furo, sphinx" in said and "pip install -e '.[docs]'" in said
