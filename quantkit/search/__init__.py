"""Search for a mixed-precision plan on a real target: costs measured there, plans built, judged and stepped back.

`timing` measures single layers, `judge` says whether an artifact keeps its quality, `steps` goes from plan to plan and
keeps the best, `page` shows what was found.
"""
