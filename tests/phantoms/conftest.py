"""The tiny phantom data sets that the readers' tests use too."""

from tests.dermoscopy.conftest import phantoms as phantoms
