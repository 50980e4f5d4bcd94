"""Drawings whose truth is known, where there is no real data: slides and skin.

`python experiments/phantoms.py --out phantoms` writes a page of their pictures: slides of each diagnosis, skin of
each class.
"""
