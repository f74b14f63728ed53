"""Repair of the statistics that interpolation breaks."""
