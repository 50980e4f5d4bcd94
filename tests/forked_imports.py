"""What `tests.forked` imports beforehand: what the recipes import to train, and nothing that begins to work."""

from melano_tf.training.tensorflow_runtime import import_quietly

import_quietly()

import keras  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import sklearn.linear_model  # noqa: E402, F401

import melano_tf.papers.shell  # noqa: E402, F401
