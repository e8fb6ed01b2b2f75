"""kopf's edge: a file a kind. ``kopf run -m sluice.handlers`` runs the operator in development."""

from sluice.handlers import clusters, groups, owned, replays, startup, topics, users

__all__ = ["clusters", "groups", "owned", "replays", "startup", "topics", "users"]
