"""A table's columns as a network takes them: numbers, categories, times, gaps."""

from jaxreg.columns.columns import Columns as Columns
from jaxreg.columns.values import as_table as as_table
