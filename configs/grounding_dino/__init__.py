"""Grounding DINO's trainings."""
