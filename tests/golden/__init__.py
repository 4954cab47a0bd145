"""The one runner of golden cases: `python -m tests.golden CASE_DIR [CASE_DIR ...]`."""
