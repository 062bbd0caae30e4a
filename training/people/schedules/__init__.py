"""What happens when: sampled with the statistics of the real data set."""
