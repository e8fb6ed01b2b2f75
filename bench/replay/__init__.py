"""How fast a replay is, against what the broker accepts and against other ways to copy a topic."""
