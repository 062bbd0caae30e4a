"""Sample schedules of micro-actions with the statistics of the real data set."""
