"""Work that is done by one server at a time and outlives all of them: leases of rows, and loops that work under them.

``rows.py`` has what a lease is, and what is done with those of a table; ``owners.py`` names the servers that hold them.
``loops.py`` keeps the loops of a part of the server going and tells how they fare. ``workers.py`` puts these together
for work that ends, such as preparing a cloud account or building an environment: claim, work, renew, drop. Clusters,
which are held for as long as they live, use the first three with a loop of their own.
"""
