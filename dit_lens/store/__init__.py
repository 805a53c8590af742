"""Long work on disk: finished items in folders that belong to their parameters, and the files of saved runs."""
