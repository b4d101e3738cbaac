"""An independent verifier of the small world: `audit` checks a sample against a caption, `shown` names its content.

It shares no code, thresholds or labels with the verifier, the judge or the scenes of the world: captions are read by
recursive descent, things are found in CIELAB and named by hue and by a classifier that was trained on drawings of
another library, and videos are followed from frame to frame.
"""

from flexgym.audit.verdict import AuditVerdict, audit, shown

__all__ = ["AuditVerdict", "audit", "shown"]
