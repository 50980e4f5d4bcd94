"""The training loop, losses and bags."""
