"""Dashboards: each cluster's on an origin of its own, carried from the scheduler's loopback to browsers."""
