"""melano_tf: the Keras / TensorFlow reproduction of five melanoma papers.

Importing this package does no work and brings no TensorFlow: every module is imported where it is used.
"""

__version__ = "0.3.0"
