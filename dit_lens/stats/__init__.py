"""Intervals, paired comparisons and corrections: what a number over tasks is worth."""

from dit_lens.stats.summary import beside, share, summarise

__all__ = ["beside", "share", "summarise"]
