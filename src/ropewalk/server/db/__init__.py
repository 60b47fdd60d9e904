"""The database: engine, models, migrations. SQLite by default, PostgreSQL by URL; one code for both."""
