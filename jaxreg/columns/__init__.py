"""A table's columns as a network takes them: numbers, categories, times, gaps."""

from jaxreg.columns.categories import as_text as as_text
from jaxreg.columns.columns import Columns as Columns
from jaxreg.columns.counts import Counts as Counts
from jaxreg.columns.fingerprints import fingerprints as fingerprints
from jaxreg.columns.fingerprints import of_scaled as of_scaled
from jaxreg.columns.growth import carried as carried
from jaxreg.columns.kinds import count as count
from jaxreg.columns.values import as_table as as_table
from jaxreg.columns.values import picked as picked
from jaxreg.columns.values import table_names as table_names
