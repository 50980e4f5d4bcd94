"""Sample weighting on real images: what two cores can do with HAM10000 (see experiments/weighting_ham10000.py)."""
