"""Evaluation of a run on a split of the small world, before and after training (``flexgym evaluate``)."""
