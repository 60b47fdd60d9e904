"""Software environments from the client's side: files that describe them, the user's own packages, local code."""
