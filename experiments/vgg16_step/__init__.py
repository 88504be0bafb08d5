"""One step of learning-compression on VGG-16 at full size: what it costs."""
