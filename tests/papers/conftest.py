"""The runs that the tests of the recipes share."""

from tests.papers.tiny import inside, tiny_run
from tests.papers.tiny_multimag import multimag_run
from tests.papers.zoome_run import tiny_zoome

__all__ = ["inside", "multimag_run", "tiny_run", "tiny_zoome"]
