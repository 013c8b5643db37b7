import base64
import html
import re
import struct

import matplotlib
import numpy as np
import pytest

from jaxreg import Gaussian, GaussianMixture, metrics, report


def section(name="price [€]", n=60, mixture=False):
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=n), np.exp(0.3 * rng.normal(size=n))
    prediction = Gaussian.from_std(mean, std)
    if mixture:
        prediction = GaussianMixture.from_std(np.stack([mean, mean + 1]), np.stack([std, std]))
    y = mean + std * rng.normal(size=n)
    scores = metrics.evaluate(prediction, y, level=0.9, baseline=(0.0, 2.0))
    return report.Section(name, prediction, y, scores, x=np.arange(n), x_label="area [m²]")


@pytest.mark.parametrize(
    "value,text",
    [
        (0.0, "0"),
        (4.1, "4.100"),
        (-1.3784, "-1.378"),
        (67.0849, "67.08"),
        (0.084551, "0.08455"),
        (123456.78, "123,457"),
        (1234.5678, "1,235"),
        (2.5e-30, "2.500e-30"),
        (1e9, "1.000e+09"),
    ],
)
def test_numbers_have_four_digits(value, text):
    assert report._shown(value, "unit") == text
    assert report._shown(0.953, "share") == "95.3%"


def test_rows_of_scores():
    rows = {row.name: row for row in report.score_rows(section().scores)}
    assert set(rows) >= {"RMSE", "NLL (nats)", "CRPS", "inside the 90% interval", "width of the 90% interval"}
    assert rows["inside the 90% interval"].meaning == "should be 90%"
    assert "of disagreement alone" not in rows  # a single network has none
    both = {row.name: row for row in report.score_rows(section(mixture=True).scores)}
    assert float(both["of disagreement alone"].model) == pytest.approx(0.5, rel=1e-3)
    alone = metrics.evaluate(section().prediction, section().y)
    assert {row.trivial for row in report.score_rows(alone)} == {""}
    assert (
        len(report.score_table(alone).columns) == 2 and len(report.score_table(section().scores).columns) == 3
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 9, 10])
def test_few_rows_have_no_calibration_error(tmp_path, n):
    one = section(n=n)
    report.write(tmp_path / "page.html", [one], title="", about="")
    report.write(tmp_path / "page.pdf", [one], title="", about="")
    names = {row.name for row in report.score_rows(one.scores, n)}
    shown = {"calibration error", "largest calibration error", "ENCE"} & names
    assert len(shown) == (3 if n == 10 else 0) and "RMSE" in names
    assert ("calibration error" in (tmp_path / "page.html").read_text()) == (n == 10)
    assert report.score_table(one.scores, n).row_count == len(names)


def test_html_stands_alone(tmp_path):
    path = tmp_path / "page.html"
    report.write(path, [section(), section("<b>rent</b>")], title="Prices & rents", about="60 rows")
    page = path.read_text()
    assert "Prices &amp; rents" in page and "&lt;b&gt;rent&lt;/b&gt;" in page and "<b>rent" not in page
    assert not re.search(r"(src|href)=.(?!data:)", page) and "http" not in page and "@import" not in page
    assert 'name="viewport"' in page and "@media print" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert len(images) == 12 and len({alt for _, alt in images}) == 12
    for data, _ in images:
        png = base64.b64decode(data)
        assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] > 600
    text = html.unescape(page)
    for row in report.score_rows(section().scores):
        assert row.name in text and row.model in text and row.trivial in text


def test_pdf_has_a_page_for_each_output(tmp_path):
    with matplotlib.rc_context({"pdf.compression": 0}):
        report.write(tmp_path / "page.pdf", [section(), section("rent")], title="Prices", about="60 rows")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) == 2
    assert b"/Title (Prices)" in content


@pytest.mark.parametrize("suffix", [".html", ".pdf"])
def test_names_that_look_like_formulas(tmp_path, suffix):
    names = r"a $\frac$ b", "$x$", "100 %"
    report.write(
        tmp_path / f"page{suffix}",
        [section(names[0])._replace(x_label=names[1])],
        title=names[1],
        about=names[2],
    )
    assert (tmp_path / f"page{suffix}").stat().st_size > 10_000


def test_without_the_trivial_prediction(tmp_path):
    one = section()
    one.scores.pop("baseline")
    report.write(tmp_path / "page.html", [one], title="", about="")
    page = (tmp_path / "page.html").read_text()
    assert "trivial</th>" not in page and "Trivial" not in page and 'class="number trivial"' not in page
    report.write(tmp_path / "page.pdf", [one], title="", about="")
    with pytest.raises(ValueError, match="a report needs at least one section"):
        report.write(tmp_path / "none.pdf", [], title="", about="")
    assert not (tmp_path / "none.pdf").exists()


def test_nothing_is_half_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a report is a .html or .pdf, not '.txt'"):
        report.write(tmp_path / "page.txt", [section()], title="", about="")
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(*_, **__):
        raise OSError("no space")

    for module in (report.plots, report.plots.page):
        monkeypatch.setattr(module, "report_panels", fail)
    for suffix in (".html", ".pdf"):
        with pytest.raises(OSError, match="no space"):
            report.write(path.with_suffix(suffix), [section()], title="", about="")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"] and path.read_text() == "old"


@pytest.mark.parametrize("factor, word", [(0.7, "narrow"), (1.6, "wide"), (1.0, None)])
def test_intervals_that_hold_too_few_or_too_many_are_told(tmp_path, factor, word):
    rng = np.random.default_rng(0)
    prediction = Gaussian.from_std(np.zeros(500), np.full(500, factor))
    scores = metrics.evaluate(prediction, rng.normal(size=500))
    found = report.verdict(scores, 500)
    inside = (
        f"{100 * scores['coverage']:.1f}% of rows lie in the 95% interval, which is too {word}: recalibrate"
    )
    assert (found is None) if word is None else found.startswith(inside)
    report.write(
        tmp_path / "a.html", [report.Section("y", prediction, np.zeros(500), scores)], title="", about=""
    )
    assert (found or "recalibrate") in html.unescape((tmp_path / "a.html").read_text()) or word is None
    report.write(
        tmp_path / "a.pdf", [report.Section("y", prediction, np.zeros(500), scores)], title="", about=""
    )


def test_a_right_prediction_is_hardly_ever_blamed():
    for rows in (20, 100, 10_000):
        inside = np.random.default_rng(0).binomial(rows, 0.9, 2000) / rows
        blamed = [report.verdict({"level": 0.9, "coverage": share}, rows) is not None for share in inside]
        assert np.mean(blamed) < 0.004
