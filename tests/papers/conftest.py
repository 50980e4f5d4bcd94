"""The runs that the tests of the recipes share."""

from tests import forked
from tests.papers.bags_run import tiny_bags
from tests.papers.ham10000_run import tiny_ham10000
from tests.papers.similarity_run import tiny_similarity
from tests.papers.tiny import inside, tiny_run
from tests.papers.tiny_multimag import multimag_run
from tests.papers.weighting_run import tiny_weighting
from tests.papers.zoome_run import tiny_zoome

__all__ = [
    "inside",
    "multimag_run",
    "tiny_bags",
    "tiny_ham10000",
    "tiny_run",
    "tiny_similarity",
    "tiny_weighting",
    "tiny_zoome",
]

forked.begin()
