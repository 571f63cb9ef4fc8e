"""The right cut of every axis, found by watching the full and the small model run."""
