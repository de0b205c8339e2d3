"""A model of what a mesh costs and how long it takes, fed by measured constants: docs/scaling.md.

`work` counts what each process does for one operation; `capacity`, `latency`, `walls` and
`queueing` predict from that and `constants`, and are pure. `mesh`, `observe`, `runs`, `once` and
`fit` measure the constants and judge the model on meshes that it was not fitted to.
"""
