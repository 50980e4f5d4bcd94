"""Who trains, is held out, is judged: patients, folds, hold-out, clusters, leaks, on one core (`stratification`)."""
