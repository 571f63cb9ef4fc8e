"""The page and the pictures of what was measured."""
