"""Add software environments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("creator_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("managed", sa.Boolean(), nullable=False),
        sa.Column("good", sa.Integer(), nullable=True),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_environments_account_id")),
        sa.ForeignKeyConstraint(["creator_id"], ["users.id"], name=op.f("fk_environments_creator_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
    )
    with op.batch_alter_table("environments", schema=None) as batch_op:
        batch_op.create_index(
            "uq_environments_live_name",
            ["account_id", "name"],
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )

    op.create_table(
        "index_credentials",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_index_credentials_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_index_credentials")),
        sa.UniqueConstraint("account_id", "name", name=op.f("uq_index_credentials_account_id_name")),
    )
    op.create_table(
        "environment_versions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("environment_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("spec_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("creator", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_environment_versions_environment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environment_versions")),
        sa.UniqueConstraint("environment_id", "number", name=op.f("uq_environment_versions_environment_id_number")),
    )
    op.create_table(
        "environment_builds",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("cloud_account_id", sa.String(), nullable=False),
        sa.Column("spec_hash", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("platform", sa.String(), nullable=False),
        sa.Column("fresh", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("lock", sa.JSON(), nullable=True),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_environment_builds_account_id")),
        sa.ForeignKeyConstraint(
            ["cloud_account_id"], ["cloud_accounts.id"], name=op.f("fk_environment_builds_cloud_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["environment_versions.id"], name=op.f("fk_environment_builds_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environment_builds")),
        sa.UniqueConstraint(
            "version_id", "target", "platform", name=op.f("uq_environment_builds_version_id_target_platform")
        ),
    )
    with op.batch_alter_table("environment_builds", schema=None) as batch_op:
        batch_op.create_index("ix_environment_builds_hash", ["account_id", "spec_hash", "target"], unique=False)
        batch_op.create_index("ix_environment_builds_lease", ["state", "lease_expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_environment_builds_path"), ["path"], unique=False)

    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.add_column(sa.Column("image", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("venv", sa.String(), nullable=True))
        batch_op.create_index(batch_op.f("ix_clusters_venv"), ["venv"], unique=False)

    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.add_column(sa.Column("build_id", sa.String(), nullable=True))
        batch_op.create_index("ix_events_build", ["build_id", "id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_build")
        batch_op.drop_column("build_id")

    with op.batch_alter_table("clusters", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_clusters_venv"))
        batch_op.drop_column("venv")
        batch_op.drop_column("image")

    with op.batch_alter_table("environment_builds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_environment_builds_path"))
        batch_op.drop_index("ix_environment_builds_lease")
        batch_op.drop_index("ix_environment_builds_hash")

    op.drop_table("environment_builds")
    op.drop_table("environment_versions")
    op.drop_table("index_credentials")
    with op.batch_alter_table("environments", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_environments_live_name",
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )

    op.drop_table("environments")
