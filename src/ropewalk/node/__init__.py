"""What runs beside a scheduler or worker: one file, of the standard library and distributed only."""
