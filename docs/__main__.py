"""Builds the site into `docs/build`: `python -m docs`; `--links` also follows links to other sites.

Code of Markdown pages, commands and programs among it, runs in another process meanwhile; scripts of
tutorials and gallery run in the build. A warning, a link to nowhere and code that fails are errors, which
name their page.
"""

import argparse
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def missing(extra: str = "docs") -> list[str]:
    """Packages of an extra in pyproject.toml, and of extras that it names, that aren't installed."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    found = []
    for need in project["optional-dependencies"][extra]:
        name, *extras = re.findall(r"[\w-]+", need.partition(">")[0].partition("=")[0])
        if name == project["name"]:
            found += [each for other in extras for each in missing(other)]
            continue
        try:
            distribution(name)
        except PackageNotFoundError:
            found.append(name)
    return list(dict.fromkeys(found))


def build(builder: str, *options: str) -> int:
    """Run Sphinx; its exit code, which isn't 0 after a warning."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", "build/doctrees", *options]
    return subprocess.run([*command, "-b", builder, ".", f"build/{builder}"], cwd=FOLDER).returncode


def dead_links(site: Path) -> list[str]:
    """Links within a site that lead nowhere; Sphinx looks at those of Markdown alone."""
    pages = {page.resolve(): page.read_text() for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for page, text in pages.items()}
    dead = []
    for page, text in pages.items():
        for link in sorted(set(re.findall(r'\bhref="(?!\w+:)([^"]+)"', text))):
            path, _, anchor = link.partition("#")
            file = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not file.exists() or anchor and file in anchors and anchor not in anchors[file]:
                dead.append(f"{page.relative_to(site.resolve())}: {link} leads nowhere")
    return dead


def main() -> int:
    """Build, and say where the site is."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--links", action="store_true", help="follow links to other sites too")
    parser.add_argument("--no-code", action="store_true", help="run no code: a quick look at the pages")
    asked = parser.parse_args()
    if lacking := missing():
        print(f"the build needs {', '.join(lacking)}: pip install -e '.[docs]'", file=sys.stderr)
        return 2
    began, pages = time.perf_counter(), None
    if not asked.no_code:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", "docs", "README.md"]
        pages = subprocess.Popen(command, cwd=FOLDER.parent)
    builders = ["html", "linkcheck"] if asked.links else ["html"]
    built = max(build(builder, "-D", f"plot_gallery={not asked.no_code:d}") for builder in builders)
    dead = dead_links(FOLDER / "build" / "html")
    print(*dead, sep="\n", end="\n" * bool(dead), file=sys.stderr)
    ran = 0 if pages is None else pages.wait()
    if ran:
        print("code of pages failed: pytest names page and line above", file=sys.stderr)
    if not (built or dead or ran):
        print(f"{time.perf_counter() - began:.0f} s: {FOLDER / 'build/html/index.html'}")
    return built or ran or bool(dead)


if __name__ == "__main__":
    sys.exit(main())
