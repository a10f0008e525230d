"""The comparison of two backends: the job, its measures, its findings."""
