"""Necks: from a backbone's maps to the levels that an encoder reads."""
