"""The comparison of two backends: the job, its measures, and the records of what was found."""
