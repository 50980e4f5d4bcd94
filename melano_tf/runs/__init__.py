"""A run on disk: its folder and steps, atomic files, what the program wrote, sidecars of models."""
