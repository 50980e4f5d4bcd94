"""`predict`: a trained model on one slide, on one image, or on many of either."""
