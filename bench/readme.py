"""The README's tables, made from the committed results."""

import csv
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


def parity(rows: list[dict]) -> list[str]:
    """The largest difference from PyTorch for each thing compared."""
    lines = ["| what | precision | bound | largest difference |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['dtype']} | {r['bound']} | {r['largest_difference']} |" for r in rows]
    used = ", ".join(f"{name} {rows[0][name]}" for name in ("jax", "flax", "optax", "torch"))
    return [*lines, "", f"Measured on {rows[0]['platform']} with {used}."]


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
    used = ", ".join(f"{name} {rows[0][name]}" for name in ("jax", "flax", "torch"))
    return [*lines, "", f"Measured on {rows[0]['device']} with {used}."]


TABLES = {"parity": parity, "notebook": notebook}


def render(text: str) -> str:
    """The README's text with each table made anew; a table whose results are missing stays as it is."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.csv"
        if path.exists():
            with path.open(newline="") as file:
                body = "\n".join(table(list(csv.DictReader(file))))
            pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end: {name} -->)"
            text = re.sub(pattern, lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text, flags=re.S)
    return text


def main() -> None:
    """Rewrite README.md in place."""
    README.write_text(render(README.read_text()))
