"""Results as files, and the tables of README and docs/benchmarks made from them."""

import csv
import re
from pathlib import Path

import numpy as np

from bench import table_scores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
README_TABLE = "comparison"
TABLES_FIRST = "jaxreg"  # what the others are compared with
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "benchmarks").glob("*.md"))]


def write(rows: list[dict], path: Path) -> None:
    """Write a result, whole or not at all."""
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)


def parity(rows: list[dict]) -> list[str]:
    """The largest difference from PyTorch for each thing compared."""
    lines = ["| what | precision | bound | largest difference |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['dtype']} | {r['bound']} | {r['largest_difference']} |" for r in rows]
    return [*lines, "", _measured_on(rows[0])]


def notebook(rows: list[dict]) -> list[str]:
    """The notebook's printed figures among many seeds."""
    lines = [
        f"| epoch | notebook | percentile among {rows[0]['seeds']} jaxreg runs | jaxreg, median (5 to 95 %) "
        f"| percentile among {rows[0]['torch_seeds']} torch_ref runs | torch_ref, median |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['epoch']} | {r['notebook']} | {r['jaxreg_percentile']} "
        f"| {r['jaxreg_q50']} ({r['jaxreg_q5']} to {r['jaxreg_q95']}) "
        f"| {r['torch_percentile']} | {r['torch_q50']} |"
        for r in rows
    ]
    return [*lines, "", _measured_on(rows[0])]


def _grouped(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def speed(rows: list[dict]) -> list[str]:
    """Times of whole fits, and how many times as long the rivals take."""
    lines = [
        "| network | batch | members | jaxreg, µs per member and step | notebook's loop takes "
        "| the best PyTorch variant takes | jaxreg takes, of its products alone |",
        "|---|---|---|---|---|---|---|",
    ]
    fits = [row for row in rows if row["question"].endswith("whole fit")]
    for (network, batch, members), group in _grouped(fits, "hidden", "batch_size", "members").items():
        by_name = {row["what"]: row for row in group}
        ours, loop = by_name.pop("jaxreg"), by_name.pop("notebook's loop", None)
        limit = by_name.pop(next(name for name in by_name if name.startswith("limit")))
        best = min(by_name.values(), key=lambda row: float(row["times_ours"]))
        loop = "" if loop is None else f"{loop['times_ours']}x"
        lines.append(
            f"| {network} | {batch} | {members} | {ours['median']} | {loop} "
            f"| {best['times_ours']}x ({best['what']}) | {1 / float(limit['times_ours']):.3g}x |"
        )
    by_question = _grouped(rows, "question")
    step = by_question[("a single step called from Python",)]
    growth = by_question[("growth, time per member and step",)]
    memory = by_question[("growth, peak memory",)]
    sweep = by_question[("hyperparameter sweep",)]
    grown = ", ".join(f"{row['what'].removesuffix(' members')}: {row['median']}" for row in growth)
    slopes = ", ".join(f"{row['what']} {float(row['median']):.1f}" for row in memory)
    compiled = [row["median"] for row in sweep if row["unit"] == "programs compiled"]
    lines += [
        "",
        f"- A single `trainer.step` called from Python: {step[0]['median']} µs; PyTorch's eager step takes "
        f"{step[1]['times_ours']} times that.",
        f"- A sweep of {sweep[0]['members']} settings: {compiled[0]} program compiled, {compiled[1]} for the "
        f"next as many; a loop of compiled single fits takes {sweep[1]['times_ours']} times as long.",
        f"- µs per member and step as the ensemble grows: {grown}.",
        f"- Memory per member, in sizes of its parameters: {slopes}.",
    ]
    return [*lines, "", _measured_on(rows[0])]


def predict(rows: list[dict]) -> list[str]:
    """Times and errors of exact intervals and of their substitutes."""
    lines = [
        "| | " + " | ".join(f"{name}: takes, and is off by" for (name,) in _grouped(rows, "case")) + " |"
    ]
    lines.append("|---" * (len(_grouped(rows, "case")) + 1) + "|")
    for (what,), own in _grouped(rows, "what").items():
        cells = []
        for row in own:
            error = f"; {row['largest_error_in_stds']}" if float(row["largest_error_in_stds"] or 0) else ""
            cells.append(f"{float(row['median_ms']):,.0f} ms ({row['times_ours']}x){error}")
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return [*lines, "", _measured_on(rows[0])]


def coverage(rows: list[dict]) -> list[str]:
    """Coverage of 95 % intervals where the truth is known."""
    lines = [
        "| 16 members | coverage, mean of 20 data seeds (least to most) | width | CRPS | noise found, off by "
        "| bias of the mean over all seeds, largest |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ({row['least']} to {row['most']})" if row["seeds"] != "1" else ""
        off = f"{100 * float(row['aleatoric_off']):.1f} %" if row["aleatoric_off"] else ""
        lines.append(
            f"| {row['setting']} | {row['coverage']}{spread} | {row['width']} | {row['crps']} | {off} "
            f"| {row['bias_of_the_mean_of_all_seeds']} |"
        )
    return [*lines, "", _measured_on(rows[0])]


def losses(rows: list[dict]) -> list[str]:
    """RMSE, NLL, CRPS and coverage of each loss on each set."""
    names = [name for (name,) in _grouped(rows, "set")]
    lines = [f"| loss | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    best = {
        name: {score: min(float(row[score]) for row in own) for score in ("rmse", "crps")}
        for (name,), own in _grouped(rows, "set").items()
    }
    for (loss,), own in _grouped(rows, "loss").items():
        cells = []
        for row in own:
            marked = {
                score: f"**{row[score]}**" if float(row[score]) == best[row["set"]][score] else row[score]
                for score in ("rmse", "crps")
            }
            failed = f"; {row['failed_members']} failed" if row["failed_members"] != "0" else ""
            share = f"{100 * float(row['coverage']):.0f} %"
            cells.append(f"{marked['rmse']}, {row['nll']}, {marked['crps']}, {share}{failed}")
        lines.append(f"| {loss} | " + " | ".join(cells) + " |")
    return [*lines, "", _measured_on(rows[0])]


def uci(rows: list[dict]) -> list[str]:
    """The estimator's defaults on each set, the rivals', and the best figures of the literature."""
    lines = [
        "| set | method | RMSE | NLL | CRPS | inside 95 % | width | fit, s | rank by NLL, by CRPS "
        "| jaxreg better by NLL, by CRPS |",
        "|---" * 10 + "|",
    ]
    measured = [row for row in rows if row["splits"] != "published"]
    for (name,), own in _grouped(measured, "set").items():
        for row in own:
            scores = [f"{row[score]} ± {row[f'{score}_se']}" for score in ("rmse", "nll", "crps")]
            fit = (
                f"{row['seconds']} (first {row['first_seconds']})" if row["first_seconds"] else row["seconds"]
            )
            ranks = ", ".join(row[f"{score}_rank"] for score in ("nll", "crps"))
            won = ", ".join(row[f"{score}_won_by_jaxreg"] for score in ("nll", "crps")).strip(", ")
            inside = f"{100 * float(row['coverage']):.1f} %"
            lines.append(
                f"| {name} | {row['method']} | {' | '.join(scores)} | {inside} | {row['width']} | {fit} "
                f"| {ranks} | {won} |"
            )
        known = [row for row in rows if row["set"] == name and row["splits"] == "published"]
        best = []
        for score in ("rmse", "nll", "crps"):
            figures = [row for row in known if row[score]]
            found = min(figures, key=lambda row: float(row[score]), default=None)
            best.append("" if found is None else f"{found[score]} ({found['method'].split(' (')[0]})")
        if known:
            lines.append(f"| {name} | best published | {' | '.join(best)} | | | | | |")
    lines += ["", "Mean ranks over all sets: " + "; ".join(_mean_ranks(measured)) + "."]
    return [*lines, "", _measured_on(rows[0])]


def tables(rows: list[dict]) -> list[str]:
    """The methods over all tables, then their CRPS on each."""
    lines = [
        "| method | targets | CRPS, times jaxreg's | better than jaxreg "
        "| 90 % interval score, times jaxreg's | mean rank by CRPS | best "
        "| inside 50, 90, 95 % | below and above 90 % | fit, s | predict, s |",
        "|---" * 11 + "|",
    ]
    order = [TABLES_FIRST]
    for line in table_scores.summary(rows, order):
        inside = ", ".join(line[f"cover{percent}"] or "-" for percent in (50, 90, 95))
        outside = f"{line['below90']}, {line['above90']}"
        names = ("method", "targets", "crps_ratio", "better", "interval_ratio", "rank", "best")
        cells = [*(line[name] for name in names), inside, outside, line["fit_wall"], line["predict_wall"]]
        lines.append(f"| {' | '.join(cells)} |")
    found = table_scores.by_table(rows, order)
    lines += ["", f"| CRPS | {' | '.join(list(found[0])[1:])} |", "|---" * len(found[0]) + "|"]
    lines += [f"| {' | '.join(line.values())} |" for line in found]
    return [*lines, "", _measured_on(rows[0])]


def comparison(rows: list[dict]) -> list[str]:
    """The methods that a user would choose from, over all sets: a row for each."""
    lines = [
        "| method | mean rank by CRPS | mean rank by NLL | inside 95 % intervals | fit, s |",
        "|---|---|---|---|---|",
    ]
    measured = [row for row in rows if row["splits"] != "published"]
    for (method,), own in _grouped(measured, "method").items():
        crps, nll = (np.mean([float(row[f"{score}_rank"]) for row in own]) for score in ("crps", "nll"))
        inside = [100 * float(row["coverage"]) for row in own]
        fit, first = ([float(row[name]) for row in own if row[name]] for name in ("seconds", "first_seconds"))
        more = f" (first {min(first):.2g} to {max(first):.2g})" if first else ""
        lines.append(
            f"| {method} | {crps:.2f} | {nll:.2f} | {min(inside):.0f} to {max(inside):.0f} % "
            f"| {min(fit):.2g} to {max(fit):.2g}{more} |"
        )
    return [*lines, "", _measured_on(rows[0])]


def _mean_ranks(rows: list[dict]) -> list[str]:
    found = []
    for (method,), own in _grouped(rows, "method").items():
        ranks = [
            [float(row[f"{score}_rank"]) for row in own if row[f"{score}_rank"]] for score in ("nll", "crps")
        ]
        if all(ranks):
            means = " by NLL and ".join(f"{sum(of) / len(of):.2f}" for of in ranks)
            found.append(f"{method} {means} by CRPS")
    return found


def ablation(rows: list[dict]) -> list[str]:
    """What each ingredient of the defaults is worth."""
    names = [name for (name,) in _grouped(rows, "set")]
    lines = [f"| NLL, RMSE, inside 95 % | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for (variant,), own in _grouped(rows, "variant").items():
        cells = [
            f"{float(row['nll']):.2f}, {float(row['rmse']):.3g}, {100 * float(row['coverage']):.0f} %"
            for row in own
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return [*lines, "", _measured_on(rows[0])]


def faults(rows: list[dict]) -> list[str]:
    """How often each fault struck, and how often the promise held."""
    lines = ["| what went wrong | times | held | what is promised |", "|---|---|---|---|"]
    lines += [f"| {r['fault']} | {r['times']} | {r['held']} | {r['promise']} |" for r in rows]
    return [*lines, "", _measured_on(rows[0])]


def inputs(rows: list[dict]) -> list[str]:
    """How made-up inputs ended."""
    lines = ["| input | examples | right | refused by name | warned of |", "|---|---|---|---|---|"]
    for r in rows:
        counts = (f"{int(r[name]):,}" for name in ("examples", "right", "refused", "warned of"))
        lines.append(f"| {r['input']} | {' | '.join(counts)} |")
    return [*lines, "", _measured_on(rows[0])]


def scale(rows: list[dict]) -> list[str]:
    """Memory and rates of rows in files, and of many processes."""
    lines = ["| measured | | |", "|---|---|---|"]
    for (question,), own in _grouped(rows, "question").items():
        for i, row in enumerate(own):
            value = float(row["value"])
            shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            shown = f"{shown} {row['unit']}".rstrip()
            lines.append(f"| {question if i == 0 else ''} | {row['what']} | {shown} |")
    return [*lines, "", _measured_on(rows[0])]


def gpu(rows: list[dict]) -> list[str]:
    """Everything that was measured on a GPU, question by question."""
    lines = ["| measured | members | what | median (least to most) | times jaxreg's |", "|---" * 5 + "|"]
    for (question,), own in _grouped(rows, "question").items():
        before = None
        for i, row in enumerate(own):
            spread = f" ({row['least']} to {row['most']})" if row["rounds"] != "1" else ""
            members = row["members"] if row["members"] != before else ""
            before = row["members"]
            lines.append(
                f"| {question if i == 0 else ''} | {members} | {row['what']} "
                f"| {row['median']} {row['unit']}{spread} | {row['times_ours']} |"
            )
    devices = _grouped(rows, "device").values()
    for own in devices:
        asked = "; ".join(question for (question,) in _grouped(own, "question"))
        lines += ["", _measured_on(own[0]) + (f" There: {asked}." if len(devices) > 1 else "")]
    return lines


def columns(rows: list[dict]) -> list[str]:
    """Each column of each table, and as what it was taken."""
    lines = ["| table | column | is | taken as |", "|---" * 4 + "|"]
    for (table,), own in _grouped(rows, "table").items():
        for i, row in enumerate(own):
            name = row["column"].replace("|", "\\|")
            lines.append(f"| {table if i == 0 else ''} | {name} | {row['is']} | {row['taken_as']} |")
    return [*lines, "", _measured_on(rows[0])]


def _measured_on(row: dict) -> str:
    used = ", ".join(f"{name} {row[name]}" for name in ("jax", "flax", "optax", "torch") if name in row)
    return f"Measured on {row.get('device') or row['platform']} with {used}."


TABLES = {
    "parity": ("parity.csv", parity),
    "notebook": ("notebook.csv", notebook),
    "speed": ("speed-cpu.csv", speed),
    "gpu": ("gpu.csv", gpu),
    "columns": ("columns.csv", columns),
    "predict": ("predict-cpu.csv", predict),
    "coverage": ("coverage.csv", coverage),
    "losses": ("losses.csv", losses),
    README_TABLE: ("uci.csv", comparison),
    "uci": ("uci.csv", uci),
    "tables": ("tables.csv", tables),
    "ablation": ("ablation.csv", ablation),
    "faults": ("faults.csv", faults),
    "inputs": ("inputs.csv", inputs),
    "scale": ("scale.csv", scale),
}


def render(text: str) -> str:
    """A page's text with each table made anew; a table whose results are missing stays as it is."""
    for name, (file_name, table) in TABLES.items():
        path = RESULTS / file_name
        if path.exists():
            with path.open(newline="") as file:
                body = "\n".join(table(list(csv.DictReader(file))))
            if name != README_TABLE:
                body += f"\n\n[{file_name}](../../bench/results/{file_name}) has all figures."
            pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end: {name} -->)"
            text = re.sub(pattern, lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text, flags=re.S)
    return text


def main() -> None:
    """Rewrite the pages in place."""
    for page in PAGES:
        page.write_text(render(page.read_text()))
