"""Pictures of predictions and of what they are worth, in matplotlib."""

from jaxreg.plots.drawing import literal as literal
from jaxreg.plots.groups import coverage_by as coverage_by
from jaxreg.plots.importance import dependence as dependence
from jaxreg.plots.importance import importance as importance
from jaxreg.plots.importance import strongest as strongest
from jaxreg.plots.page import report as report
from jaxreg.plots.page import report_panels as report_panels
from jaxreg.plots.pictures import band as band
from jaxreg.plots.pictures import densities as densities
from jaxreg.plots.pictures import error_by_std as error_by_std
from jaxreg.plots.pictures import history as history
from jaxreg.plots.pictures import observed_against_predicted as observed_against_predicted
from jaxreg.plots.pictures import pit_histogram as pit_histogram
from jaxreg.plots.pictures import reliability as reliability
