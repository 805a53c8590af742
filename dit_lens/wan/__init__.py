"""The model room: points, hooked blocks, call plan, sampler, runs, and the lens that holds them together."""
