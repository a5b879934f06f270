"""Documents that are true: commands run, links lead somewhere, tables are tables."""
