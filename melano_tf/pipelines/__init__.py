"""From records to batches: TFRecord stores and tf.data."""
