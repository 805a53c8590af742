"""The paper's claims as a table: each with what is measured for it, its null, and what decides it.

``dl.replication.claims(lens, "energy")`` measures one experiment and reads its rows; ``TABLE`` holds all rows.
"""

from dit_lens.replication.claim import Claim
from dit_lens.replication.judging import claims, judge, page, read, repeated
from dit_lens.replication.row import Estimate, Reading, Row, Untestable
from dit_lens.replication.table import TABLE, measure

__all__ = [
    "TABLE", "Claim", "Estimate", "Reading", "Row", "Untestable", "claims", "judge", "measure", "page", "read",
    "repeated",
]  # fmt: skip
