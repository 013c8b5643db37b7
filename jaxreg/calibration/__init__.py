"""Calibration on held-out rows: one factor for the variance, recalibrated levels, conformal intervals.

A calibration is fitted to predictions of rows that weren't used in training, and applied to other
predictions. Rows that chose a member's best epoch were used: calibrated on them, intervals are a little too
narrow, and guarantees don't hold.
"""

from jaxreg.calibration.conformal import Conformal as Conformal
from jaxreg.calibration.conformal import ConformalQuantiles as ConformalQuantiles
from jaxreg.calibration.conformal import JackknifePlus as JackknifePlus
from jaxreg.calibration.conformal import SplitConformal as SplitConformal
from jaxreg.calibration.conformal import rank as rank
from jaxreg.calibration.mondrian import MondrianConformal as MondrianConformal
from jaxreg.calibration.recalibration import Recalibrated as Recalibrated
from jaxreg.calibration.recalibration import Recalibration as Recalibration
from jaxreg.calibration.scaling import NoiseScaling as NoiseScaling
from jaxreg.calibration.scaling import VarianceScaling as VarianceScaling
