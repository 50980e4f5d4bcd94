"""The runs that the tests of the recipes share."""

from tests.papers.tiny import inside, tiny_run

__all__ = ["inside", "tiny_run"]
