"""The site's pages: every public name has a place and an example; recipes and lists agree with pyproject."""

import importlib
import inspect
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import jaxreg
from docs import __main__ as build
from docs import blocks

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


def example(text):
    """A block of a page."""
    return SimpleNamespace(parsed=text, namespace={})


def test_commands_of_a_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks.run_shell(
        example("# a remark\n\npip install nothing-of-this-name\necho one \\\n  two > told\nsleep 60 &\n")
    )
    assert Path("told").read_text() == "one two\n"
    # Each of two machines waits for what the other says, at one address.
    both = "echo first:9999 > {0}; until [ -e {1} ]; do sleep 0.01; done; cmp {0} {1}  # on the {0}"
    blocks.run_shell(
        example("\n".join(both.format(*pair) for pair in (("left", "right"), ("right", "left"))))
    )
    assert re.fullmatch(r"localhost:\d+\n", Path("left").read_text())
    with pytest.raises(AssertionError, match=r"(?s)ls --none.*ended with 2.*unrecognized option '--none'"):
        blocks.run_shell(example("ls --none"))
    page = example(":caption: program.py\n\nanswer = 42\n")
    blocks.save_program(page)
    assert Path("program.py").read_text() == "answer = 42\n" and page.namespace["answer"] == 42
    blocks.save_program(example(":caption: other.py\n\nimport sys\nsys.exit(sys.argv[1])\n"))
    assert Path("other.py").exists()


# Listings and output, of which nothing can run.
LISTINGS = {"project/files.md": {"text"}}


def test_what_pages_show_is_run():
    run = {"python", "bash", "{code-block} python"}
    for page in sorted((ROOT / "docs").glob("[!bm]*/*.md")):
        name = str(page.relative_to(ROOT / "docs"))
        shown = set(
            re.findall(
                r"^```(?!$|{(?:toctree|include|eval-rst|auto|typer))(.*)$", page.read_text(), re.MULTILINE
            )
        )
        assert shown <= run | LISTINGS.get(name, set()), name


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "one.html").write_text(
        '<h1 id="top"><a href="a/two.html?v=1#here"><a href="https://x.org/#no">'
    )
    (tmp_path / "a" / "two.html").write_text(
        '<h1 id="here"><a href="../one.html#gone"><a href="three.html#top">'
    )
    dead = ["a/two.html: ../one.html#gone leads nowhere", "a/two.html: three.html#top leads nowhere"]
    assert build.dead_links(tmp_path) == dead


def test_the_build_says_what_is_missing(monkeypatch, capsys):
    def installed(name):
        if name in ("furo", "sphinx", "onnx"):
            raise PackageNotFoundError(name)

    monkeypatch.setattr(build, "distribution", installed)
    monkeypatch.setattr(sys, "argv", ["docs"])
    assert build.main() == 2
    said = capsys.readouterr().err
    assert "the build needs onnx, furo, sphinx" in said and "pip install -e '.[docs]'" in said
