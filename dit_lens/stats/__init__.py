"""What a number over tasks is worth: intervals, paired comparisons, verdicts and corrections (docs/statistics.md)."""

from dit_lens.stats.against_controls import against_controls
from dit_lens.stats.corrections import fdr, max_statistic
from dit_lens.stats.coverage import OUTCOMES, coverage
from dit_lens.stats.intervals import mean_interval, share_interval
from dit_lens.stats.paired import paired
from dit_lens.stats.pairs import detectable
from dit_lens.stats.summary import summarise
from dit_lens.stats.verdict import Verdict, corrected, verdict

__all__ = [
    "OUTCOMES", "Verdict", "against_controls", "corrected", "coverage", "detectable", "fdr", "max_statistic",
    "mean_interval", "paired", "share_interval", "summarise", "verdict",
]  # fmt: skip
