"""Drawings whose truth is known, where there is no real data: slides and skin."""
