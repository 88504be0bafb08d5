"""What every experiment shares: the report's form, and how it is written."""
