"""Similarity clustering and attention transfer on ISIC 2019."""
