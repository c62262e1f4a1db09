"""Load scenarios: single stream, multi stream, server and offline, as MLPerf Inference defines them, by its LoadGen.

`load` says what is asked, `inside` runs in the case's own process, `loadgen` drives MLCommons' LoadGen, `log` reads
what it wrote, `search` looks for the highest rate of a server, `store` keeps the outcome, `command` tells the story.
"""
