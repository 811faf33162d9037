"""Serves the models in `saved_models`. Imports no application and no layer."""
