"""Functions that several applications call; none of them knows an application."""
