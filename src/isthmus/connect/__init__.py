"""Connectors: procedures that find a low-loss path or region between given networks."""

from isthmus.connect.abstract import AbstractConnector as AbstractConnector
from isthmus.connect.abstract import Connection as Connection
from isthmus.connect.abstract import Outcome as Outcome
from isthmus.connect.abstract import Saddle as Saddle
from isthmus.connect.curve import CurveConnector as CurveConnector
from isthmus.connect.curve import fit_curve as fit_curve
