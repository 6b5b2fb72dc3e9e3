"""Measurements of every op against its rooflines and baselines; ``README.md`` here says how to run them."""
