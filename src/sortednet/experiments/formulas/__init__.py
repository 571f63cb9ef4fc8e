"""The experiments on formulas."""
