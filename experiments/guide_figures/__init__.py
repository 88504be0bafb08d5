"""Short runs of the four methods over a hyperparameter each, for the figures of the guides."""
