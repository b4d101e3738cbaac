"""Gymnasium environments over FlexGym's generators."""
