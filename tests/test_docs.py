"""The site's pages: every public name has a place and an example; recipes and lists agree with pyproject."""

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import jaxreg
from docs.__main__ import NEEDED

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = {page.name: page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md"))}
LISTED = re.compile(r"auto(?:function|class|data):: ([\w.]+)")
# Modules whose names a user imports from there; what else they import for their own use is left out.
PUBLIC = "calibration distributions metrics plots importance isotonic".split()
# For those who add a family, a metric or a kind of plot.
INSIDE = set(
    "check_shares fill_rows check_prediction literal strongest did_you_mean listed check_probability crps "
    "as_table check_whole quietly Prediction Distribution Recalibration check_prediction".split()
)


def names():
    """Public names, each with the place it's documented at."""
    found = {f"jaxreg.{name}" for name in jaxreg.__all__}
    for module in PUBLIC:
        whole = importlib.import_module(f"jaxreg.{module}")
        for name, value in vars(whole).items():
            if callable(value) and name[0] != "_" and not hasattr(jaxreg, name) and name not in INSIDE:
                if getattr(value, "__module__", "").startswith("jaxreg"):
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


def test_the_build_names_packages_that_the_extra_has():
    extra = " ".join(project()["optional-dependencies"]["docs"])
    assert [package for package in NEEDED.values() if package not in extra and package != "torch"] == []


def test_the_build_says_what_is_missing(tmp_path):
    code = (
        "import sys, importlib.util as util, docs.__main__ as build\n"
        "found = util.find_spec\n"
        "build.find_spec = lambda name: None if name in ('furo', 'sphinx') else found(name)\n"
        "sys.argv = ['docs']\n"
        "sys.exit(build.main())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert "the build needs sphinx, furo" in ended.stderr and "pip install -e '.[docs]'" in ended.stderr
