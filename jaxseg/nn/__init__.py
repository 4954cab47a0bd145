"""Linen layers that two or more models use."""
