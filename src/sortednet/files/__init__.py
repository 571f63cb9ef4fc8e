"""Files: written whole or not at all, and named by what they hold. Nothing here needs torch."""
