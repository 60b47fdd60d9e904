"""Let cloud accounts be prepared: their state, the work on them and its lease, and events about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Rows that exist are hosted ones, which are ready without being prepared: the servers' defaults fit them.
    with op.batch_alter_table("cloud_accounts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("identity", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("state", sa.String(), server_default="ready", nullable=False))
        batch_op.add_column(sa.Column("reason", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("unreachable", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("work", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("work_actor", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("lease_owner", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("fence", sa.Integer(), server_default="0", nullable=False))

    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cloud_account_id", sa.String(), nullable=True))
        batch_op.create_index("ix_events_cloud_account", ["cloud_account_id", "id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_cloud_account")
        batch_op.drop_column("cloud_account_id")

    with op.batch_alter_table("cloud_accounts", schema=None) as batch_op:
        for name in (
            *("fence", "lease_expires_at", "lease_owner", "retry_at", "attempts", "work_actor", "work"),
            *("unreachable", "reason", "state", "forgotten_at", "identity"),
        ):
            batch_op.drop_column(name)
