"""Configs of DAB-DETR; `_recipe` holds what its models share."""
