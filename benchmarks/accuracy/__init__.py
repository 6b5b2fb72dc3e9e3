"""Accuracy of merged models on real data."""
