"""What crosses the HTTP API: pydantic models that the client and the server share."""
