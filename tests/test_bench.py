import numpy as np

from bench import notebook, readme


def test_notebook_bench_in_its_quick_form(tmp_path, capsys):
    rows = notebook.main(quick=True, out=tmp_path)
    assert [row["epoch"] for row in rows] == [100] and not list(tmp_path.iterdir())
    for name in ("jaxreg", "torch"):
        assert 0 <= rows[0][f"{name}_percentile"] <= 100
        quantiles = [rows[0][f"{name}_q{q}"] for q in (5, 50, 95)]
        assert np.isfinite(quantiles).all() and quantiles == sorted(quantiles)
    assert "-0.2359" in capsys.readouterr().out


def test_the_readme_shows_the_committed_results():
    text = readme.README.read_text()
    assert readme.render(text) == text
    assert "| largest difference |" in text and "| notebook |" in text
