"""Ensembles: the average of what several points say, and what it is worth."""

from isthmus.ensembles.average import average_of as average_of
from isthmus.ensembles.average import ensemble as ensemble
from isthmus.ensembles.average import weight_average as weight_average
from isthmus.ensembles.calibration import Reliability as Reliability
from isthmus.ensembles.calibration import calibration_error as calibration_error
from isthmus.ensembles.mixtures import Averaged as Averaged
from isthmus.ensembles.records import AVERAGE as AVERAGE
from isthmus.ensembles.records import BEST as BEST
from isthmus.ensembles.records import ENSEMBLE as ENSEMBLE
from isthmus.ensembles.records import SINGLE as SINGLE
from isthmus.ensembles.records import Ensemble as Ensemble
from isthmus.ensembles.records import Estimate as Estimate
from isthmus.ensembles.records import Gain as Gain
from isthmus.ensembles.records import Quality as Quality
