"""Accuracy of merged models, measured on real tasks."""
