"""Synthetic people: rendered, seated, moving, labelled exactly."""
