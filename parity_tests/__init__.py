"""The claims, executable: what this suite passes is what the project says it proves."""
