"""Ranking candidate models by how well they transfer to a target data set."""

from ._candidate import Candidate
from ._correlation import Agreement, Correlation, Estimate, correlation
from ._correlation_files import ModelScores, output_files, read_accuracies, read_scores, write_correlation
from ._extract import FileType, extract
from ._rank import Ranker
from ._ranking import Ranking, Result
from ._report import write_report
from ._scatter import draw_scatter

__all__ = [
    "Agreement",
    "Candidate",
    "Correlation",
    "Estimate",
    "FileType",
    "ModelScores",
    "Ranker",
    "Ranking",
    "Result",
    "correlation",
    "draw_scatter",
    "extract",
    "output_files",
    "read_accuracies",
    "read_scores",
    "write_correlation",
    "write_report",
]
