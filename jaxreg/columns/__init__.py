"""A table's columns as a network takes them: numbers, categories, times, gaps."""

from jaxreg.columns.columns import Columns as Columns
from jaxreg.columns.counts import Counts as Counts
from jaxreg.columns.kinds import count as count
from jaxreg.columns.values import as_table as as_table
from jaxreg.columns.values import picked as picked
