"""What runs turn into: one frame, and from it scores, tables, figures, a page and a W&B report."""
