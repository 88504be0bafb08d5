"""The runs that need an accelerator: CIFAR-10 at full length."""
