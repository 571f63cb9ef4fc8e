"""What trains a network: which sub-models, which losses, one step, and a loop."""
