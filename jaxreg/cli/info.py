"""`jaxreg info`: what a model file says of itself."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from jaxreg.cli.console import show, visible
from jaxreg.cli.json_output import print_json
from jaxreg.model.header import read_header

MOST_COLUMNS = 20
# Settings by which rows are found again, which tell a reader nothing.
OF_ROWS = "held_out", "test_rows"


def run(model: Path, *, as_json: bool) -> None:
    """Print the header."""
    header = read_header(model)
    described = msgspec.to_builtins(header.model)
    if as_json:
        whole = msgspec.to_builtins(header)
        names = (
            "feature_names",
            "feature_dtypes",
            "target_names",
            "target_dtypes",
            "settings",
            "scores",
            "versions",
            "columns",
        )
        shown = {"file": model, "format": header.format, "network": described, "members": header.members or 1}
        return print_json(
            shown | {"calibration": header.calibration} | {name: whole.get(name) for name in names}
        )
    shown = {"format": header.format, "network": header.model.kind}
    shown |= {name: described[name] for name in described if name != "kind"}
    shown |= {"members": header.members or 1, "calibration": header.calibration or "none"}
    shown = {name: _in_words(value) for name, value in shown.items()}
    for what in ("feature", "target"):
        names, dtypes = (getattr(header, f"{what}_{part}") or () for part in ("names", "dtypes"))
        columns = [visible(" ".join(filter(None, column))) for column in zip_longest(names, dtypes)]
        more = [f"and {len(columns) - MOST_COLUMNS:,} more"] if len(columns) > MOST_COLUMNS else []
        shown[f"{what}s"] = "\n".join([*columns[:MOST_COLUMNS], *more])
    table = Table(title=f"{model}", title_justify="left", show_header=False)
    for name, value in shown.items():
        table.add_row(name, value)
    for title in ("settings", "scores", "versions"):
        table.add_section()
        table.add_row(Text(title, style="bold"), "")
        values = getattr(header, title) or {}
        for name, value in values.items():
            if name not in OF_ROWS and (
                name != "seed" or not isinstance(values.get("random_state"), int)
            ):  # which gives the seed
                table.add_row(visible(name), _in_words(value))
    show(table)
    if header.columns is not None:
        taken = Table("column", "is", "taken as", title="columns", title_justify="left")
        for column in header.columns:
            taken.add_row(*(visible(str(text)) for text in (column.get("name"), *column.get("told", ()))[:3]))
        show(taken)


def _in_words(value: Any) -> str:
    """A value of a header for the reader."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
