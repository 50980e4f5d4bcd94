"""Keras layers and functional models, written in `keras.ops`."""
