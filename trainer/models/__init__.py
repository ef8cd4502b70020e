"""Models: where they come from, how they are loaded, and the policies that they become."""
