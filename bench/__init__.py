"""Benchmarks: each runs Sluice and its peers on the same data in one run, and writes ``bench/results/<name>.json``."""
