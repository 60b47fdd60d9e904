"""Exit statuses of a node, for those who must not import ``distributed``; a test holds them equal to ``main.py``'s."""

EXIT_OK = 0
EXIT_NO_SCHEDULER = 69
EXIT_CRASH = 70
EXIT_CANNOT_LISTEN = 71
EXIT_CONFIG = 78
EXIT_IDLE = 80
EXIT_NO_CLIENT = 81
EXIT_LIFETIME = 82
EXIT_CLIENT = 83
EXIT_FILE = "exit-status"
"""Where a node that ended in order leaves its exit status, in its directory."""
