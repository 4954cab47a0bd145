"""Grounding DINO (arXiv 2303.05499): find what the words say."""
