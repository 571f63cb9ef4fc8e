"""Experiments of the papers, small enough to rerun anywhere. Each module holds one, beside the papers' figures."""
