"""ZooME: zoom-in attention and metadata embedding on ISIC 2020."""
