"""Suites: a frozen benchmark, submissions to it, how far each is checked, and the board that shows them."""
