"""The code that drives each kind of cloud account, behind the one interface in :mod:`ropewalk.backends.port`."""
