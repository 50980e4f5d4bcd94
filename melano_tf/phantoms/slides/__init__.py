"""Phantom slides."""
