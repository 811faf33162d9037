"""Serves what `saved_models` holds; works on artefacts and knows no application."""
