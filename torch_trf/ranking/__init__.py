"""Ranking candidate models by how well they transfer to a target data set."""

from ._candidate import Candidate
from ._extract import extract
from ._rank import Ranker
from ._ranking import Ranking, Result
from ._report import write_report

__all__ = ["Candidate", "Ranker", "Ranking", "Result", "extract", "write_report"]
