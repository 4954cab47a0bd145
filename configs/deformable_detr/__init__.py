"""Configs of Deformable DETR; `_recipe` holds what its models share."""
