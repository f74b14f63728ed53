"""Merging: one network out of several, by repair of its statistics or by transport."""
