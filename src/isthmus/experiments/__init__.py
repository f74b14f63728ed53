"""Procedures: training, and the whole story of a pair of networks."""
