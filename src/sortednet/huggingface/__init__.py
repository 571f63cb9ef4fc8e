"""What only networks of Hugging Face models have."""
