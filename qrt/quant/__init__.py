"""Numbers only: what scales and zero points mean, lookup tables, weights and biases of products."""
