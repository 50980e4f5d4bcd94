"""One recipe a paper."""
