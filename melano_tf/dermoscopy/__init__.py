"""ISIC tables and dermoscopy images: numpy, OpenCV and pandas; no TensorFlow."""
