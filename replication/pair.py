"""Builds both sides of a comparison from one configuration and one set of weights."""
