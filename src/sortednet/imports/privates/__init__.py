"""What of other packages is private and yet needed: one module for each package, and nobody else reaches into it."""
