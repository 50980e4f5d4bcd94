"""Features of slides that are there already: readers of the files that TRIDENT, CLAM and STAMP write."""
