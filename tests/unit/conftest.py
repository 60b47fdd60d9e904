"""No test here fails because an example took long: that is the machine's doing. As Hypothesis has it in CI."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
