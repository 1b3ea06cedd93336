"""Extractive question answering: an encoder points at the first and the last token of the answer in the passage.

A passage longer than the model takes is cut into windows (`windows`), which make batches (`batches`). The best span
over all windows of a question is its answer (`spans`).
"""
