"""Submissions: the CSV, its upload, and a practice server."""
