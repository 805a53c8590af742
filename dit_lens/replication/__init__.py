"""The paper's claims as a table: each with what is measured for it, its null, and the rule of its verdict.

``dl.replication.claims(lens, "energy")`` measures one experiment and reads its rows; ``TABLE`` holds all rows.
"""

from dit_lens.replication.claim import Claim
from dit_lens.replication.judging import judge, repeated
from dit_lens.replication.row import Estimate, Reading, Row, Rule, Untestable
from dit_lens.replication.table import TABLE, claims, measure, read

__all__ = [
    "TABLE", "Claim", "Estimate", "Reading", "Row", "Rule", "Untestable", "claims", "judge", "measure", "read",
    "repeated",
]  # fmt: skip
