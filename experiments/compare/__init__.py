"""Every method of the library on the same networks, at the same budgets and for the same epochs."""
