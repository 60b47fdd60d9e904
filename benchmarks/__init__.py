"""Measurements against what users would otherwise have; run as ``python -m benchmarks NAME --json FILE``."""
