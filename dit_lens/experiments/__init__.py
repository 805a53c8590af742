"""Experiments: a lens, some tasks and a question in, a labelled dataset with its placebo out.

A measure reads runs; an experiment also makes them. Each file holds one experiment of the paper, its controls, and
``claims``, which states what the paper said beside what was found.
"""
