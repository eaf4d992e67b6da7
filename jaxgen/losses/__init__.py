"""Losses: arrays in, one number an example out."""
