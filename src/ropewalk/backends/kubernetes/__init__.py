"""Runs clusters as pods in one namespace of somebody's Kubernetes cluster, with rights inside that namespace only."""
