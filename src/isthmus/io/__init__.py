"""Reading and writing: checkpoints, records, saved states, run folders. Files appear whole or not at all."""
