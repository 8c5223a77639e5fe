"""Regression: from x of any shape to y of D numbers."""
