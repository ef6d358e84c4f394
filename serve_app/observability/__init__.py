"""What an operator sees of a running service: instruments, labels and spans; knows no Ray."""
