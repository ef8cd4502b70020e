"""What the benches have in common: inputs, and time and memory measured the same way for everyone."""
