"""dit_lens: see and change what happens inside Wan video diffusion transformers while they reason."""
