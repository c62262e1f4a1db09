"""The Apple Neural Engine, through Core ML; Core ML decides operation by operation what runs on it."""

from quantkit.targets._apple import AppleUnit

plugin = AppleUnit("ane", "Apple Neural Engine")
