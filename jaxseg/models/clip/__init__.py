"""CLIP (arXiv 2103.00020): an image and a text tower with one embedding."""
