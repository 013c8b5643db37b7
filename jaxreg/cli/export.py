"""`jaxreg export`: a model as one function for other programs."""

import importlib
from pathlib import Path

from jaxreg.cli.outputs import check_output
from jaxreg.model import export, model_file


def run(model: Path, out_file: Path, *, onnx: bool, levels: str | None) -> None:
    """Write it."""
    check_output(out_file, model)
    fitted = model_file.load(model)
    if not onnx:
        return export.save(out_file, fitted)
    try:
        onnx_export = importlib.import_module("jaxreg.model.onnx_export")
    except ModuleNotFoundError as error:
        raise ValueError(f"--onnx needs {error.name}: pip install 'jaxreg[onnx]'") from None
    if levels is None:
        return onnx_export.save(out_file, fitted)
    try:
        asked = [float(level) for level in levels.split(",")]
    except ValueError:
        raise ValueError(f"--levels must be numbers such as 0.05,0.5,0.95, got {levels!r}") from None
    return onnx_export.save(out_file, fitted, asked)
