"""Phantom photographs of skin."""
