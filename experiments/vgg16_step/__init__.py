"""The cost of one step of learning-compression on VGG-16 at full size."""
