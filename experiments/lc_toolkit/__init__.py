"""LeNet300 on MNIST, compressed in every way of the LC toolkit's table."""
