"""Losses: pure and unreduced; weights, masks and normalisers meet in `criterion`."""
