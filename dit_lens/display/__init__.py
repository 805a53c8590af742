"""What notebooks show: HTML tables, small clips, and the page of a lens or a run. Knows nothing of the model."""
