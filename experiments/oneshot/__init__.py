"""A pretrained transformer and small image networks, pruned without training and by training."""
