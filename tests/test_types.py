"""What type checkers say of the pages' examples, and of expressions that they should know or refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxreg

ROOT = Path(jaxreg.__file__).parents[1]
# Packages without types of their own are taken for of any type, so that what is checked is ours.
SETTINGS = {"extraPaths": [str(ROOT)], "useLibraryCodeForTypes": False, "reportMissingModuleSource": False}
# Pages are run where what they import is installed, which is more than is here.
SETTINGS |= {"reportMissingImports": False}
PREAMBLE = """
import jax, jax.numpy as jnp, numpy as np
from jaxreg import Affine, Distribution, Gaussian, GaussianMixture, MeanVarRegressor, Prediction
from jaxreg import isotonic, metrics, predict, predict_ensemble
from jaxreg.calibration import NoiseScaling, SplitConformal, VarianceScaling
from jaxreg.estimator import DeepEnsembleRegressor

def has_density(dist: Distribution) -> None: ...
def has_intervals(dist: Prediction) -> None: ...

x, y = np.ones((5, 1)), np.ones(5)
gaussian, mixture = Gaussian(y, jnp.zeros(5)), GaussianMixture(jnp.zeros((2, 5)), jnp.zeros((2, 5)))
affine = Affine(mixture, 0.0, np.ones(1))
recalibrated = isotonic.fit(affine, y)(affine)
conformal = SplitConformal.fit(affine, y)(affine)
model = MeanVarRegressor()
params = model.init(jax.random.key(0), x)
of_estimator = DeepEnsembleRegressor().fit(x, y).predict_dist(x)
"""
DISTRIBUTIONS = "gaussian mixture affine recalibrated of_estimator predict(model,params,x)".split()
FINE = [
    f"{dist}.{expression}"
    for dist in [*DISTRIBUTIONS, "predict_ensemble(model, params, x)", "conformal"]
    for expression in (
        "mean.shape",
        "std.shape[0] + 1",
        "epistemic.max()",
        "interval(0.9)[0].shape",
        "quantile([0.1, 0.9]).shape",
        "output(0).mean.shape",
    )
]
FINE += [f"{dist}[{rows}].mean.shape" for dist in DISTRIBUTIONS for rows in (":3", "2", "y > 0", "[0, 1]")]
FINE += [f"has_density({dist})" for dist in DISTRIBUTIONS] + ["has_intervals(conformal)"]
FINE += [
    "mean, log_var = gaussian; log_var.shape",
    "gaussian._replace(mean=y).log_var.sum() + gaussian.log_prob([1.0]).mean()",
    "mixture[:2].means.shape, mixture.moment_matched().crps(y).mean()",
    "VarianceScaling.fit(mixture, y)(mixture).means.shape",
    "NoiseScaling(2.0)(gaussian).log_var.shape",
    "metrics.evaluate(gaussian, y)['crps'], metrics.evaluate(of_estimator, y)['nll']",
    "metrics.evaluate(affine, y, baseline=(0.0, 1.0))['baseline']['crps']",
    "metrics.evaluate(conformal, y)['coverage'], metrics.evaluate(conformal, y).get('nll')",
]
WRONG = [
    "has_density(conformal)",
    "conformal.log_prob(y)",
    "gaussian.stddev",
    "gaussian[:3].stddev",
    "gaussian.std.sigma",
    "Gaussian(y)",
    "metrics.rmse(y, y)",
    "metrics.evaluate(gaussian, y)['nlll']",
    "metrics.evaluate(conformal, y)['nll']",
]


def errors(folder, texts):
    """Where pyright finds errors, by name of the text and line, counted from 1, and what they are."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pyrightconfig.json").write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", folder]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout)
    assert found["summary"]["filesAnalyzed"] == len(texts)
    return {
        (Path(each["file"]).stem, each["range"]["start"]["line"] + 1): each["message"]
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    }


def python_of(page):
    """The Python blocks of a page at their lines, one after the other, as the tests run them."""
    blocks = re.compile(
        r"^```(?:python|{code-block} python\n:caption: .*)\n(.*?)^```", re.DOTALL | re.MULTILINE
    )
    text, lines = page.read_text(), []
    for block in blocks.finditer(text):
        lines += [""] * (text[: block.start(1)].count("\n") - len(lines)) + block[1].splitlines()
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_pages_pass_pyright(tmp_path):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[!mb]*/*.md"))]
    texts = {f"{page.parent.name}_{page.stem}": python_of(page) for page in pages}
    assert len(texts) == len(pages) and errors(tmp_path, texts) == {}


@pytest.mark.slow
def test_expressions_that_pyright_knows_and_refuses(tmp_path):
    lines = [*PREAMBLE.splitlines(), *FINE]
    found = {
        line: text for (_, line), text in errors(tmp_path, {"page": "\n".join([*lines, *WRONG])}).items()
    }
    assert {line: text for line, text in found.items() if line <= len(lines)} == {}
    refused = [WRONG[line - 1 - len(lines)] for line in sorted(found)]
    assert refused == WRONG
