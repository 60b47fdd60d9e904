"""Add passes to dashboards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dashboard_passes",
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"], name=op.f("fk_dashboard_passes_cluster_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_dashboard_passes_user_id")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_dashboard_passes")),
    )
    with op.batch_alter_table("dashboard_passes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dashboard_passes_cluster_id"), ["cluster_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_dashboard_passes_user_id"), ["user_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("dashboard_passes", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_dashboard_passes_user_id"))
        batch_op.drop_index(batch_op.f("ix_dashboard_passes_cluster_id"))

    op.drop_table("dashboard_passes")
