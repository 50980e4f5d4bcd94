"""A trained model at work on one slide or image."""
