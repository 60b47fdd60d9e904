"""The one table of what Ropewalk may do in a namespace: the check, the Role and the documentation come from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one resource, and what does not work without it.

    ``optional`` ones only make errors and checks say more.
    """

    verb: str
    resource: str
    breaks: str
    optional: bool = False


PERMISSIONS: Sequence[Permission] = (
    Permission("create", "pods", "no cluster can start"),
    Permission("get", "pods", "a node cannot be told to be gone for certain"),
    Permission("list", "pods", "nothing is known about nodes"),
    Permission("watch", "pods", "changes of nodes are not noticed"),
    Permission("delete", "pods", "nodes cannot be stopped"),
    Permission("get", "pods/log", "logs cannot be read"),
    Permission("get", "pods/portforward", "schedulers cannot be reached"),
    Permission("create", "pods/portforward", "schedulers cannot be reached (Kubernetes 1.35 and later ask for this)"),
    Permission("create", "services", "no cluster can start: workers find their scheduler by it"),
    Permission("get", "services", "an interrupted start cannot go on, and load balancers' addresses are not known"),
    Permission("list", "services", "what an interrupted start left over is not found"),
    Permission("delete", "services", "what belongs to a cluster is not removed at its end"),
    Permission("create", "secrets", "no cluster can start: they hold its certificates"),
    Permission("list", "events", "errors say less about why a pod waits", optional=True),
    Permission("list", "resourcequotas", "the check cannot say how much room there is", optional=True),
    Permission("list", "limitranges", "the check cannot say what sizes are allowed", optional=True),
    Permission("get", "namespaces", "the check cannot say what pod security asks for", optional=True),
)


def needed_for(verb: str, resource: str) -> str:
    """Return what does not work without a permission, as the second half of a sentence."""
    for permission in PERMISSIONS:
        if (permission.verb, permission.resource) == (verb, resource):
            return f"without that {permission.breaks}"
    return "that is not among the rights that Ropewalk asks for"


def rules() -> list[Mapping[str, Sequence[str]]]:
    """Return the rules of a Role that holds exactly the table; all resources are of the core group."""
    verbs: dict[str, list[str]] = {}
    for permission in PERMISSIONS:
        verbs.setdefault(permission.resource, []).append(permission.verb)
    return [{"apiGroups": [""], "resources": [resource], "verbs": found} for resource, found in verbs.items()]
