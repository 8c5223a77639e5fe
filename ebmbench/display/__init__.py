"""How tables and figures are made, whatever they show."""
