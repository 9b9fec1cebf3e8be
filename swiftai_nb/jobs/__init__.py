"""Jobs: their queue, cluster batches, history and timings."""
