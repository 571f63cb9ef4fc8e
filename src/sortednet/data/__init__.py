"""Images, CIFAR-10, text."""
