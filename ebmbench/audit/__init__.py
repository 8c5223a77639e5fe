"""Judges what lies in a results folder: its files, its tables, and what training gives again."""
