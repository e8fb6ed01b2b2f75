"""``make demo``: from nothing to a first replay of real data, on one machine."""
