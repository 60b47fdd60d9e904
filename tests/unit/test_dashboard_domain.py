"""Where browsers find the dashboards of clusters."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ropewalk.server.settings import Settings


@pytest.mark.parametrize(
    ("public", "domain", "origin"),
    [
        ("http://127.0.0.1:8780", "localhost", "http://c-1.localhost:8780"),
        ("http://[::1]:8780", "localhost", "http://c-1.localhost:8780"),
        ("http://localhost:1", "sub.localhost", "http://c-1.sub.localhost:1"),
        ("https://ropewalk.example.org", "Dash.Example.org", "https://c-1.dash.example.org"),
        ("https://ropewalk.example.org", "localhost", None),
        ("http://10.0.0.1:8780", "localhost", None),
    ],
)
def test_a_dashboard_has_the_scheme_and_port_of_the_server(public: str, domain: str, origin: str | None) -> None:
    assert Settings(public_url=public, dashboard_domain=domain).dashboard_origin("c-1") == origin


@pytest.mark.parametrize("domain", ["", "*.example.org", "https://x", "a b", "-x.org", "x..org", "x:80", "x" * 300])
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(ValidationError, match="give a domain"):
        Settings(dashboard_domain=domain)
