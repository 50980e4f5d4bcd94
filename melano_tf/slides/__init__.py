"""From a gigapixel file to tiles: numpy, OpenSlide, OpenCV and pandas; no TensorFlow."""
