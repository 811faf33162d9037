"""The applications: one package each, and in `common` the functions they share."""
