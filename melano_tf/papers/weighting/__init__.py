"""Sample weighting for dermoscopy images: the paper "How Important Is Each Dermoscopy Image?"."""
