"""Procedures: training, and the whole story of a pair of networks."""

from isthmus.experiments.pair import PairSettings as PairSettings
from isthmus.experiments.pair import study_pair as study_pair
from isthmus.experiments.records import AxisRow as AxisRow
from isthmus.experiments.records import End as End
from isthmus.experiments.records import Matching as Matching
from isthmus.experiments.records import PairStudy as PairStudy
from isthmus.experiments.records import PathStudy as PathStudy
from isthmus.experiments.train import TrainState as TrainState
from isthmus.experiments.train import train as train
