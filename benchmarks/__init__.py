"""Speed against the floor: every figure is a ratio to the bare work, measured side by side in one run."""
