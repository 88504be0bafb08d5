"""Which units of a traced function matter. For the rooms that ask: inspection, deploy."""
