"""Starts the node program inside a pod: standard library only, shipped in the cluster's Secret next to ``main.py``.

All nodes of a role share one configuration; what differs comes from the pod itself. Keys stay out of the environment,
which child processes inherit.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any


def configuration(shared: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of this node, from the one of its role and what the pod says of itself."""
    config = dict(shared)
    address = environ["ROPEWALK_POD_IP"]
    if config["role"] == "scheduler":
        # Kubelets forward a port to the pod's own loopback, not to its address. Workers need no such way in.
        address = "::" if ":" in address else "0.0.0.0"  # noqa: S104 - mutual TLS, whatever it comes by
    host = f"[{address}]" if ":" in address else address
    config["node"] = environ["ROPEWALK_NODE"]
    config["listen"] = f"tls://{host}:{config.pop('port')}"
    config["directory"] = environ["ROPEWALK_WORK"]
    return config


def main() -> int:
    """Run the node; returns its exit status."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs start-up time
    with open(os.path.join(here, "node.json"), encoding="utf-8") as file:  # noqa: PTH118, PTH123 - as above
        node = json.load(file)
    os.environ.update(node["environ"])
    config = configuration(node["config"], os.environ)
    sys.path.insert(0, here)
    # Only now: Dask reads the environment when it is imported.
    program = importlib.import_module("main")

    return int(program.main(["main.py"], {"ROPEWALK_NODE_CONFIG": json.dumps(config)}))


if __name__ == "__main__":
    sys.exit(main())
