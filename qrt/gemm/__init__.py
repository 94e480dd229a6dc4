"""The product of u8 activations and s8 weights, from tile to blocks."""
