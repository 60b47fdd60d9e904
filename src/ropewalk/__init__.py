"""Ropewalk: ask for a Dask cluster and get one, in infrastructure you own."""
