"""Running prompts: jobs, their queue, their history, their timings."""
