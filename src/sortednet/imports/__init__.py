"""What is imported by name: the registry of what may be named, optional packages, names of packages when first used."""
