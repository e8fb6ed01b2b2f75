"""Plugins of the tests. (pytest allows ``pytest_plugins`` only here, at the root.)"""

pytest_plugins = ["tests.support.fixtures"]
