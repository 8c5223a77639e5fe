"""ebmbench: how should one train an energy-based model for regression?"""
