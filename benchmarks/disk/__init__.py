"""Merges from files to files against the floor of their I/O, and against mergekit."""
