"""How the site is built; `python -m docs` runs it."""

import os
import re
import tomllib
import warnings
from pathlib import Path

import matplotlib
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import jaxreg

# Folders of scripts, and where the pages made of them are.
MADE = {"tutorials": "made/tutorials", "gallery": "made/gallery"}
# Pages that show files from outside this folder.
ROOT_PAGES = {
    "bench/LOG.md": "log",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
}

package = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
project, author, copyright = "jaxreg", "the jaxreg authors", "the jaxreg authors"
release = version = jaxreg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx_llms_txt",
    "sphinxcontrib.typer",
]
exclude_patterns = ["build", *(f"{folder}/*" for folder in MADE)]
default_role = "code"  # docstrings write code between single backticks
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = "jaxreg"
html_baseurl = os.environ.get("SITE_URL", "")  # for links of llms.txt
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

myst_enable_extensions = ["attrs_inline", "dollarmath", "substitution"]
# What badges say, so that they are true.
python = package["requires-python"].removeprefix(">=")
myst_substitutions = {"version": version, "python": python, "license": package["license"]}
myst_heading_anchors = 3
math_renderer = html_math_renderer = "mathml"
linkcheck_timeout = 20

autodoc_typehints = "none"  # docstrings give shapes and units
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# scikit-learn adds these, with labels of its own pages.
ROUTING = "set_fit_request, set_partial_fit_request, set_predict_request, set_score_request"
autodoc_default_options = {"members": True, "exclude-members": ROUTING}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

llms_txt_summary = "Regression networks that say how sure they are, trained in JAX as one compiled program."
llms_txt_full_file = False

# The scripts are run as users run them.
os.environ["JAXREG_NO_CACHE"] = "1"
matplotlib.use("Agg")


def begin_script(_: dict, __: Path) -> None:
    """Before each script: what a user would be warned of is an error, and figures are of one size."""
    for category in (UserWarning, RuntimeWarning, FutureWarning):
        warnings.simplefilter("error", category)
    matplotlib.rcParams.update({"figure.dpi": 110, "figure.constrained_layout.use": True})


sphinx_gallery_conf = {
    "examples_dirs": list(MADE),
    "gallery_dirs": list(MADE.values()),
    "abort_on_example_error": True,
    "reset_modules": (begin_script,),
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_",),
    "write_computation_times": False,
}


def link_to_pages(_: Sphinx, __: str, source: list[str]) -> None:
    """Links to scripts, which readers of the source can follow, become links to the pages made of them."""
    for file, page in ROOT_PAGES.items():
        source[0] = source[0].replace(f"](../../{file}", f"](../project/{page}.md")
    for folder, made in MADE.items():
        source[0] = source[0].replace(f"]({folder}/GALLERY_HEADER.rst)", f"]({made}/index.rst)")
        source[0] = re.sub(
            rf"\]\(((?:\.\./)*){folder}/(\w+)\.(?:py|rst)\)", rf"](\1{made}/\2.rst)", source[0]
        )


def math(writer: HTML5Translator, node: nodes.math) -> None:
    """A formula as MathML, which browsers draw without a script and without a network."""
    display = isinstance(node, nodes.math_block)
    written = tex2mathml(node.astext(), as_block=display)
    writer.body.append(written.replace(' stretchy="false"', "") if display else written)
    raise nodes.SkipNode


def is_field(_: Sphinx, __: str, ___: str, member: object, skip: bool, ____: object) -> bool | None:
    """Leave out a named tuple's fields, which the class's own docstring explains."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def link_from_source(app: Sphinx, page: str, _: str, context: dict, __: object) -> None:
    """Links from source to the reference by the name that it has there: viewcode has one module a file."""
    known = app.env.domaindata["py"]["objects"]

    def right(link: re.Match) -> str:
        name = link[1]
        same = [own for own in known if own.split(".")[-1] == name.split(".")[-1]]
        return link[0] if name in known or not same else f'#{same[0]}"'

    if page.startswith("_modules/"):
        context["body"] = re.sub(r'#(jaxreg[\w.]+)"', right, context["body"])


def setup(app: Sphinx) -> None:
    """Register what the site adds to Sphinx."""
    app.connect("autodoc-skip-member", is_field)
    app.connect("source-read", link_to_pages)
    app.connect("html-page-context", link_from_source)
    app.add_html_math_renderer("mathml", (math, None), (math, None))
