"""Class activation maps and probability maps: arrays in, arrays out."""
