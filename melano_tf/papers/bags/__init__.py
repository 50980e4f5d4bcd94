"""Bags of features from anywhere: a slide's or a patient's label from the features of its tiles. No paper."""
