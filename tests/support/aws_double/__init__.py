"""A double of AWS for tests: ministack with AWS's own strictness, faults on demand, and every call counted.

It runs in a virtual environment of its own (``requirements.txt``; made by ``tests/support/ministack.py``), so nothing
here imports Ropewalk and nothing outside imports it. ``python -m tests.support.aws_double`` starts it; what it adds to
ministack is put in the place of functions that it names, each of which must exist, so that another version of
ministack fails at the start and not silently in a test.

=================  ====================================================================================================
``control.py``     settings, faults to inject and counts, and their JSON endpoint ``/_double/…``
``gate.py``        what each request passes: count, rate limit, fault, latency, and a lost answer
``rates.py``       the rate limits that AWS documents
``permissions.py`` permissions that AWS asks for beside the action itself: PassRole, tagging on creation
``identities.py``  IAM: late visibility of roles and keys, the service-linked role, keys of the root user
``resources.py``   which resources and conditions a request is authorised for, policy simulation with a context
``networks.py``    EC2: dry runs, late visibility, pending NAT gateways, conflicts and dependencies
``interfaces.py``  network interfaces of tasks and their addresses
``tasks.py``       ECS: limits, client tokens, capacity, start and stop that take time
``fargate.py``     what Fargate validates
``containers.py``  ECS tasks as real containers: limits, entry point, network
``layers.py``      ECR: layers that are really stored
``quotas.py``      Service Quotas: what Fargate's are
=================  ====================================================================================================
"""
