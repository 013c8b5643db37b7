"""The notebook, end to end: `python -m torch_ref`; `--help` lists the settings."""

import argparse
import csv
from pathlib import Path

import torch

from torch_ref.data import sinusoid
from torch_ref.models import MeanOnlyRegressor, MeanVarRegressor, predict
from torch_ref.plots import figure
from torch_ref.training import fit, sgd

MODELS = {
    "heteroscedastic": (MeanVarRegressor, 64, "Heteroscedastic Gaussian NLL with SGD"),
    "homoscedastic": (MeanOnlyRegressor, None, "Homoscedastic Gaussian NLL with SGD"),
}


def main() -> None:
    """Train both models, print their NLL every 100 epochs, write two pictures and two tables."""
    parser = argparse.ArgumentParser(prog="python -m torch_ref", description="The notebook in PyTorch.")
    parser.add_argument(
        "--out", type=Path, default=Path("torch-ref-demo"), help="folder for pictures and tables"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=800, help="epochs of the first model")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    place = {"dtype": getattr(torch, args.dtype), "device": args.device}
    x, y = (t.to(**place) for t in sinusoid(torch.Generator().manual_seed(args.seed)))
    grid = torch.linspace(-3.5, 3.5, 400, **place)[:, None]
    losses, predictions = [], []
    for name, (build, batch_size, title) in MODELS.items():
        model = build().to(**place)
        epochs = 300 if batch_size is None else args.epochs
        print(name)

        def log(epoch: int, loss: float) -> None:
            if (epoch + 1) % 100 == 0:
                print(f"epoch {epoch + 1:4d} | nll: {loss:.4f}")

        history = fit(model, sgd(model), (x, y), epochs=epochs, batch_size=batch_size, after_epoch=log)
        losses += [(name, i + 1, loss) for i, loss in enumerate(history)]
        columns = [t.cpu().numpy() for t in (grid[:, 0], *predict(model, grid))]
        predictions += [(name, *row) for row in zip(*columns, strict=True)]
        train = (x[:, 0].cpu().numpy(), y.cpu().numpy())
        figure(title, train, columns[0], columns[1], columns[3], columns[4]).savefig(args.out / f"{name}.png")
    write(args.out / "history.csv", ["model", "epoch", "nll"], losses)
    write(args.out / "predictions.csv", ["model", "x", "mean", "std", "lower", "upper"], predictions)
    print(f"pictures and tables are in {args.out}")


def write(path: Path, header: list[str], rows: list[tuple]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
