"""The many-in-one network: what is shared, what is written, and what a kind of model tells it."""
