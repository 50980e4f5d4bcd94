"""Who trains, who is held out, who is judged: patients, folds, hold-out, clusters and leaks, on one core (`draw`)."""
