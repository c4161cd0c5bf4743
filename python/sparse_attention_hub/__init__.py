"""Sparse attention for long-context language models."""
