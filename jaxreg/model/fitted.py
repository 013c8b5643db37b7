"""A fitted model: all that a prediction needs and a file stores."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import PyTree

from jaxreg.data.border import check_features
from jaxreg.data.frames import TableLike, column_names
from jaxreg.data.scaler import Scaler
from jaxreg.distributions.clipped import Clipped
from jaxreg.distributions.transformed import Affine
from jaxreg.networks.prediction import predict, predict_ensemble
from jaxreg.plain import counted, did_you_mean, listed

# Standard deviations from the training rows' mean. What lies farther off is predicted as if it lay there,
# where no network's arithmetic overflows.
FARTHEST = 1e6


class Fitted(NamedTuple):
    """A trained model, or ensemble, with what takes a user's rows in and predictions out in the user's units.

    It can be pickled and sent to other processes, which have to be spawned: JAX hangs in a child that was
    forked after JAX was used (docs/howto/serve.md has examples for joblib and gunicorn).

    Attributes:
        model: the Linen module, trained on standardised features and targets.
        params: its parameters; those of an ensemble have a leading axis of members.
        x_scaler: standardises the features; or `Columns`, which take tables of any kind.
        y_scaler: standardises the target.
        feature_names: columns in the order the model takes them; None where the training data had no names.
        target_names: one name per output; None where the training data had no names.
        settings: how it was trained, for the reader.
        members: number of networks, None for one alone, whose parameters have no axis of members.
        calibration: changes what the networks predict, in the units of training: a `NoiseScaling` or
            `VarianceScaling`.
        feature_dtypes: types of the features' columns, as the training data had them; for the reader.
        target_dtypes: types of the targets' columns; for the reader.
        scores: how well it did, for the reader; None where there was nothing to score.
        bounds: of the target, in its units, which no prediction leaves; None for none.

    >>> import jax, numpy as np
    >>> from jaxreg import Fitted, MeanVarRegressor, Scaler
    >>> model = MeanVarRegressor(hidden=(8,))
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> params = model.init(jax.random.key(0), x)
    >>> fitted = Fitted(model, params, Scaler.fit(x), Scaler.fit([10.0, 20.0, 60.0]))
    >>> fitted.predict(x).std.shape
    (3,)
    """

    model: nn.Module
    params: PyTree
    x_scaler: Any
    y_scaler: Scaler
    feature_names: tuple[str, ...] | None = None
    target_names: tuple[str, ...] | None = None
    settings: dict | None = None
    members: int | None = None
    calibration: Callable | None = None
    feature_dtypes: tuple[str, ...] | None = None
    target_dtypes: tuple[str, ...] | None = None
    scores: dict[str, float | None] | None = None
    bounds: tuple[float, float] | None = None

    def predict(self, x: TableLike) -> Affine | Clipped:
        """Predict each row in the target's units; within bounds if there are some.

        Args:
            x: features in the user's units. A data frame's columns are found by name and may stand in any
                order among others; anything else must have the training data's columns in their order.

        Raises:
            ValueError: if a column is missing, by name, or the number of columns differs.
        """
        kind = jax.tree.leaves(self.params)[0].dtype
        if not isinstance(self.x_scaler, Scaler):
            inputs = self.x_scaler.transform(x)
            if not len(inputs):
                raise ValueError("the table has no rows")
            return self._predicted(inputs.astype(kind))
        names = column_names(x)
        if names is not None and self.feature_names is not None:
            at = {name: i for i, name in enumerate(names)}
            missing = [name for name in self.feature_names if name not in at]
            if missing:
                raise ValueError(
                    f"the data lack {listed(missing)}, which the model was trained on; "
                    f"they have {listed(names)}{did_you_mean(missing[0], names)}"
                )
            columns = list(x.columns)
            x = x[[columns[at[name]] for name in self.feature_names]]
        x = check_features(x, dtype=np.float64)
        features = np.shape(self.x_scaler.loc)[0]
        if x.shape[1] != features:
            raise ValueError(f"x has {counted(x.shape[1], 'feature')}, the model was trained on {features}")
        scaled = np.clip(self.x_scaler.transform(x), -FARTHEST, FARTHEST)
        return self._predicted(scaled.astype(kind))

    def _predicted(self, scaled: np.ndarray) -> Affine | Clipped:
        run = predict if self.members is None else predict_ensemble
        # On the host, where the number of rows needs no program of its own.
        dist = jax.tree.map(np.asarray, run(self.model, self.params, scaled))
        dist = dist if self.calibration is None else self.calibration(dist)
        found = Affine(dist, self.y_scaler.loc, self.y_scaler.scale)
        return found if self.bounds is None else Clipped(found, *self.bounds)
