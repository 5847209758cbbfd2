"""Rewards on published models: CLIP, BLIP, and heads on them."""
