"""The rollout server as a trainer sees it: one or several, over the wire."""
