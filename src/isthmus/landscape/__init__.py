"""Landscapes: from weights to loss and error, example by example."""

from isthmus.landscape.abstract import AbstractLandscape as AbstractLandscape
from isthmus.landscape.abstract import Evaluation as Evaluation
from isthmus.landscape.analytic import AnalyticLandscape as AnalyticLandscape
from isthmus.landscape.dataset import Examples as Examples
from isthmus.landscape.dataset import LoaderExamples as LoaderExamples
from isthmus.landscape.dataset import TensorExamples as TensorExamples
from isthmus.landscape.network import Landscape as Landscape
from isthmus.landscape.task import Recipe as Recipe
from isthmus.landscape.task import Task as Task
