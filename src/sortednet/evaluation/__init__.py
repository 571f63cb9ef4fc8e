"""What each sub-model is worth and what it costs."""
