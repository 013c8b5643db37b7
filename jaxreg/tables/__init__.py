"""Tables in files: CSV and Parquet, read whole or as a shuffled stream, and written whole or not at all."""

from jaxreg.tables.csv import KEPT as KEPT
from jaxreg.tables.csv import SUFFIXES as SUFFIXES
from jaxreg.tables.csv import as_numbers as as_numbers
from jaxreg.tables.csv import blocks as blocks
from jaxreg.tables.csv import check_suffix as check_suffix
from jaxreg.tables.csv import header as header
from jaxreg.tables.csv import with_names as with_names
from jaxreg.tables.find import GROUP_ROWS as GROUP_ROWS
from jaxreg.tables.find import find as find
from jaxreg.tables.find import from_files as from_files
from jaxreg.tables.find import names_of as names_of
from jaxreg.tables.find import size as size
from jaxreg.tables.find import without_index as without_index
from jaxreg.tables.prefetch import prefetch as prefetch
from jaxreg.tables.read import check_columns as check_columns
from jaxreg.tables.read import columns as columns
from jaxreg.tables.read import index_columns as index_columns
from jaxreg.tables.read import joined as joined
from jaxreg.tables.read import numeric as numeric
from jaxreg.tables.read import read as read
from jaxreg.tables.read import typed as typed
from jaxreg.tables.row_groups import RowGroup as RowGroup
from jaxreg.tables.stream import Files as Files
from jaxreg.tables.writer import Writer as Writer
from jaxreg.tables.writer import write as write
