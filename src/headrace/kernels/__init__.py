"""C++ compute behind a thin typed face, and the NumPy reference beside it.

`native` is the compiled module (`native/`), `plan` the recorded forward pass, `grouped` the weight format, `reference`
the slow truth. Nothing here knows models by name, requests, or tokens as text.
"""
