"""Procedures: training, and the whole story of a pair of networks."""

from isthmus.experiments.pair import PairSettings as PairSettings
from isthmus.experiments.pair import pair_identity as pair_identity
from isthmus.experiments.pair import study_pair as study_pair
from isthmus.experiments.records import AxisRow as AxisRow
from isthmus.experiments.records import End as End
from isthmus.experiments.records import Fit as Fit
from isthmus.experiments.records import Matching as Matching
from isthmus.experiments.records import Merge as Merge
from isthmus.experiments.records import PairStudy as PairStudy
from isthmus.experiments.records import PathStudy as PathStudy
from isthmus.experiments.train import train as train
