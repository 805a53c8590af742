"""Long work on disk: files written whole or not at all, and folders bound to the parameters they were begun with."""
