"""What needs an accelerator: CIFAR-10 at full length."""
