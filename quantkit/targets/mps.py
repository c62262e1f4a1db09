"""The GPU of Apple silicon, through Metal."""

from quantkit.targets._apple import AppleUnit

plugin = AppleUnit("mps", "Apple GPU (Metal)", gpu=True)
