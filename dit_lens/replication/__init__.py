"""The paper's claims, each with the number that decides it, its null and the verdict."""
