"""HTML for notebooks: tables, small clips, and the page of a lens or a run. Does not import the model."""
