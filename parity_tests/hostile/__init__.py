"""Files that somebody wrote to hang, crash or fill a reader, and what each reader says."""
