"""Reading and writing: checkpoints, records, saved states, run folders; everything appears whole or not at all."""
