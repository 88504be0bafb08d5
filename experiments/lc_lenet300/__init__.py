"""LeNet300 on MNIST, compressed by learning-compression."""
