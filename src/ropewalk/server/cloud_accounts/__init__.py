"""Where clusters run: settings, credentials, checks, and the backend of each cloud account."""
