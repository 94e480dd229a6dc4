"""Machine words and instructions for kernels, one per intrinsic, and what this CPU has."""
