"""What the commands do, callable from Python. Each module imports what it runs, so that a command loads no other's."""
