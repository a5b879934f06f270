"""Turns recorded results into a report that a person can read and a program can check.

Needs NumPy, Jinja2 and a result; never torch, TensorFlow or a model.
"""
