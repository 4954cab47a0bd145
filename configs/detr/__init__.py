"""Configs of DETR; `_recipe` holds what the paper's four models share."""
