"""Reward models: images and prompts in, one number an image out.

To add one: write a file in one of the folders with a class that has `score` (see `reward.Reward`),
and add an entry to `built_in.BUILT_IN`.
"""
