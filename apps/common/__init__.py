"""Functions that several applications call. They import no application."""
