"""Installed training configs: one file is one run."""
