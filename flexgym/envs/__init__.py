"""Gymnasium environments for the generators of FlexGym."""
