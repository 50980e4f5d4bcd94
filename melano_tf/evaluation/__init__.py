"""Metrics and their intervals: numpy, no TensorFlow."""
