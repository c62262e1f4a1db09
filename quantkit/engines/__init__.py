"""The Python face: quantize any `nn.Module` with any `DataLoader`, by the same pipeline that benchmarks the zoo.

`quantkit.QuantizationController` and its engines are here; `docs/python.md` shows them. Everything is built, opened,
answered and timed by `quantkit.pipeline`, in processes of its own: `own` lends a user's network to the catalog.
"""
