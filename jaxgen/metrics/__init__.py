"""Measures of trained models on held-out data: what they are worth, with the protocol beside the number."""
