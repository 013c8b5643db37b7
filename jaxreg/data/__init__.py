"""Data on its way in: the example, checked arrays, units, and rows by their numbers."""

from jaxreg.data.border import check_data as check_data
from jaxreg.data.border import check_features as check_features
from jaxreg.data.border import check_rows as check_rows
from jaxreg.data.border import check_targets as check_targets
from jaxreg.data.border import check_trainable as check_trainable
from jaxreg.data.border import check_weights as check_weights
from jaxreg.data.border import default_dtype as default_dtype
from jaxreg.data.example import grid as grid
from jaxreg.data.example import sinusoid as sinusoid
from jaxreg.data.far import far_outside as far_outside
from jaxreg.data.far import warn_of_far as warn_of_far
from jaxreg.data.frames import TableLike as TableLike
from jaxreg.data.frames import as_floats as as_floats
from jaxreg.data.frames import check_numbers as check_numbers
from jaxreg.data.frames import column_dtypes as column_dtypes
from jaxreg.data.frames import column_names as column_names
from jaxreg.data.rows import Block as Block
from jaxreg.data.rows import Source as Source
from jaxreg.data.rows import batch_order as batch_order
from jaxreg.data.rows import bootstrap_rows as bootstrap_rows
from jaxreg.data.rows import fold_rows as fold_rows
from jaxreg.data.rows import key_words as key_words
from jaxreg.data.rows import row_folds as row_folds
from jaxreg.data.rows import row_fractions as row_fractions
from jaxreg.data.scaler import Scaler as Scaler
from jaxreg.data.scaler import without_unit as without_unit
