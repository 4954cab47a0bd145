"""Configs of DINO; `_recipe` holds what the paper's models share."""
