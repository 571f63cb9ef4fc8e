"""What the commands on formulas read and write."""
